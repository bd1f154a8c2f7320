// @vitest-environment jsdom
import { act, useEffect } from "react";
import { createRoot } from "react-dom/client";
import { afterEach, beforeEach, expect, it, vi } from "vitest";

import { useTyped } from "./hooks";

const WAIT_MS = 400;
const heard = vi.fn();
let shown = "";
let type: (text: string) => void;

function Field({ text }: { text: string }) {
  const [typed, change] = useTyped(text, heard, WAIT_MS);
  useEffect(() => {
    shown = typed;
    type = change;
  });
  return null;
}

let root: ReturnType<typeof createRoot>;
const holds = (text: string) => act(() => root.render(<Field text={text} />));
const after = (ms: number) => act(() => void vi.advanceTimersByTime(ms));

beforeEach(() => {
  vi.stubGlobal("IS_REACT_ACT_ENVIRONMENT", true);
  vi.useFakeTimers();
  heard.mockClear();
  root = createRoot(document.createElement("div"));
  holds("");
});
afterEach(() => {
  act(() => root.unmount());
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

it("tells of a text that stands still, and keeps what is typed before that one holds", () => {
  act(() => type("gra"));
  after(WAIT_MS);
  expect(heard).toHaveBeenLastCalledWith("gra");
  act(() => type("grac"));
  holds("gra");
  act(() => type("grace "));
  expect(shown).toBe("grace ");
  after(WAIT_MS);
  expect(heard).toHaveBeenLastCalledWith("grace");
  holds("grace");
  expect([shown, heard.mock.calls.length]).toEqual(["grace ", 2]);
});

it("shows another text that comes to hold, and forgets what was not told yet", () => {
  act(() => type("ada"));
  holds("grace");
  after(WAIT_MS);
  expect([shown, heard.mock.calls.length]).toEqual(["grace", 0]);
  holds("");
  expect(shown).toBe("");
});
