/** Small hooks that several pages use. */
import { useRouterState } from "@tanstack/react-router";
import { useEffect, useRef, useState, type RefObject } from "react";

/** The time, anew every `everyMs` while `running`; else it stands still. */
export function useNow(everyMs: number, running = true): number {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    if (!running) return;
    const timer = setInterval(() => setNow(Date.now()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs, running]);
  return now;
}

/** An element's width in pixels, and its new one when that changes. 0 before it is there. */
export function useWidth<E extends HTMLElement>(): [RefObject<E | null>, number] {
  const ref = useRef<E>(null);
  const [width, setWidth] = useState(0);
  useEffect(() => {
    const element = ref.current;
    if (!element) return;
    const watcher = new ResizeObserver(([entry]) => entry && setWidth(Math.floor(entry.contentRect.width)));
    watcher.observe(element);
    return () => watcher.disconnect();
  }, []);
  return [ref, width];
}

/** Calls `deed` once, `waitMs` after the first of many calls. */
export function useGathered(deed: () => void, waitMs: number): () => void {
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const latest = useRef(deed);
  useEffect(() => {
    latest.current = deed;
  });
  useEffect(() => () => clearTimeout(timer.current), []);
  const [call] = useState(() => () => {
    timer.current ??= setTimeout(() => {
      timer.current = undefined;
      latest.current();
    }, waitMs);
  });
  return call;
}

/** The value once it has stood still for `waitMs`: while somebody types, the one before. Compared by what it holds. */
export function useSettled<T>(value: T, waitMs: number): T {
  const text = JSON.stringify(value);
  const [settled, setSettled] = useState({ value, text });
  useEffect(() => {
    if (text === settled.text) return;
    const timer = setTimeout(() => setSettled({ value: JSON.parse(text) as T, text }), waitMs);
    return () => clearTimeout(timer);
  }, [text, settled.text, waitMs]);
  return settled.value;
}

/**
 * A text that somebody types, beside the one that holds (`text`). `onText` hears of it when it has stood still for
 * `waitMs`; when another text comes to hold, by a link or a button, that is shown instead. When the one comes to hold that
 * `onText` heard of, what was typed since stays.
 */
export function useTyped(text: string, onText: (text: string) => void, waitMs: number): [string, (typed: string) => void] {
  const [typed, setTyped] = useState(text);
  const timer = useRef<ReturnType<typeof setTimeout>>(undefined);
  const known = useRef(text);
  useEffect(() => {
    if (text === known.current) return;
    known.current = text;
    clearTimeout(timer.current);
    setTyped(text);
  }, [text]);
  useEffect(() => () => clearTimeout(timer.current), []);
  return [
    typed,
    (next) => {
      setTyped(next);
      clearTimeout(timer.current);
      timer.current = setTimeout(() => {
        known.current = next.trim();
        onText(known.current);
      }, waitMs);
    },
  ];
}

/**
 * What the address of the page `path` holds, from the moment somebody asked for it. The page shows it only when its answer
 * is there: a second wish before that must build on the first one, not on what is shown. `shown` while somebody leaves.
 */
export function useAsked<Search extends object>(
  path: string,
  shown: Search,
  validate: (search: Record<string, unknown>) => Search,
): Search {
  const asked = useRouterState({ select: ({ location }) => (location.pathname === path ? location.search : undefined) });
  return asked ? validate(asked as Record<string, unknown>) : shown;
}

/** For an element that answers what somebody just did: when it appears, it is brought to where they look. */
export function useInView(): RefObject<HTMLDivElement | null> {
  const ref = useRef<HTMLDivElement>(null);
  useEffect(() => {
    ref.current?.scrollIntoView({ block: "center" }); // newer browsers answer with a promise, which is no clean-up
  }, []);
  return ref;
}

/** The page's name, in the browser's tab. */
export function useTitle(title: string) {
  useEffect(() => {
    document.title = title ? `${title} · Perdure` : "Perdure";
  }, [title]);
}
