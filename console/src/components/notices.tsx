/** Short messages at the top of the page: what was done, and what was refused. */
import type { FlashbarProps } from "@cloudscape-design/components/flashbar";
import { createContext, useCallback, useContext, useMemo, useState, type ReactNode } from "react";

import { isSignedOut, titleOf } from "../api/errors";

type Notice = Pick<FlashbarProps.MessageDefinition, "type" | "header" | "content" | "action">;
type Notices = { items: FlashbarProps.MessageDefinition[]; say: (notice: Notice) => void };

const Context = createContext<Notices>({ items: [], say: () => undefined });
const MOST = 4;

export function NoticesProvider({ children }: { children: ReactNode }) {
  const [items, setItems] = useState<FlashbarProps.MessageDefinition[]>([]);
  const say = useCallback((notice: Notice) => {
    const id = crypto.randomUUID();
    const onDismiss = () => setItems((now) => now.filter((one) => one.id !== id));
    setItems((now) => [{ ...notice, id, dismissible: true, onDismiss }, ...now].slice(0, MOST));
  }, []);
  const value = useMemo(() => ({ items, say }), [items, say]);
  return <Context value={value}>{children}</Context>;
}

export const useNoticeItems = () => useContext(Context).items;

/** `say({ type: "success", content: … })`; `refused(problem)` says what a call was refused with. */
export function useNotices() {
  const { say } = useContext(Context);
  return useMemo(
    () => ({
      say,
      refused: (problem: unknown) => {
        if (isSignedOut(problem)) return;
        const content = problem instanceof Error ? problem.message : String(problem);
        say({ type: "error", header: titleOf(problem), content });
      },
    }),
    [say],
  );
}
