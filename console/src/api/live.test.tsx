// @vitest-environment jsdom
import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { act } from "react";
import { createRoot } from "react-dom/client";
import { afterEach, beforeEach, expect, it, vi } from "vitest";

import { useLive } from "./live";
import { FRESH_MS, notePosition } from "./positions";

/** What a browser gives for a stream: its address, and a way to say what the server said. */
class Stream extends EventTarget {
  static opened: Stream[] = [];
  static CLOSED = 2;
  constructor(readonly address: string) {
    super();
    Stream.opened.push(this);
  }
  close() {}
  ready(position: number) {
    this.dispatchEvent(new MessageEvent("ready", { data: JSON.stringify({ position }) }));
  }
}

const anew = vi.fn();
let begins = Date.now();
const answered = (position: number) => notePosition(new Response("", { headers: { "Perdure-Position": `${position}` } }));

function Page() {
  useLive(() => undefined, { onReset: anew });
  return null;
}

let root: ReturnType<typeof createRoot>;
const shown = (): Stream => {
  act(() =>
    root.render(
      <QueryClientProvider client={new QueryClient()}>
        <Page />
      </QueryClientProvider>,
    ),
  );
  return Stream.opened.at(-1)!;
};

beforeEach(() => {
  vi.stubGlobal("IS_REACT_ACT_ENVIRONMENT", true);
  vi.stubGlobal("EventSource", Stream);
  vi.useFakeTimers({ now: (begins += 10 * FRESH_MS) }); // nothing of another test is fresh
  anew.mockClear();
  root = createRoot(document.createElement("div"));
});
afterEach(() => {
  act(() => root.unmount());
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

it("begins where the oldest answer ends that may be shown, and asks for nothing twice", () => {
  answered(3);
  vi.advanceTimersByTime(2 * FRESH_MS);
  answered(7);
  answered(8);
  const stream = shown();
  expect(stream.address).toBe("/api/v1/stream?after=7");
  stream.ready(7);
  answered(9);
  expect(anew).not.toHaveBeenCalled();
});

it("asks anew when an answer on its way tells of an earlier state than the stream", () => {
  const stream = shown();
  expect(stream.address).toBe("/api/v1/stream");
  stream.ready(5);
  answered(5);
  expect(anew).not.toHaveBeenCalled();
  answered(4);
  answered(4);
  expect(anew).toHaveBeenCalledTimes(1);
});

it("asks anew when such an answer came while the stream was being opened", () => {
  const stream = shown();
  answered(4);
  stream.ready(5);
  expect(anew).toHaveBeenCalledTimes(1);
});
