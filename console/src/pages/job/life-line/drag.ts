import { useRef, type PointerEvent } from "react";

/** Pointer handlers that tell by how many pixels the picture was dragged since the last word. */
export function useDrag(onDrag: (pixels: number) => void) {
  const last = useRef<number | null>(null);
  return {
    onPointerDown: (event: PointerEvent) => {
      if (event.pointerType === "mouse" && event.button === 0) last.current = event.clientX;
    },
    onPointerMove: (event: PointerEvent) => {
      if (last.current === null) return;
      onDrag(event.clientX - last.current);
      last.current = event.clientX;
    },
    onPointerUp: () => (last.current = null),
    onPointerLeave: () => (last.current = null),
  };
}
