/**
 * Is the server there? Every call tells; while it is not, its health is asked for every two seconds, and never else.
 * Pages without the stream learn by this that the server is back.
 */
import { useSyncExternalStore } from "react";

const EVERY_MS = 2000;
const watchers = new Set<() => void>();
let away = false;
let back = () => undefined as void;

function put(now: boolean) {
  if (now === away) return;
  away = now;
  watchers.forEach((tell) => tell());
  if (away) setTimeout(() => void look(), EVERY_MS);
  else back();
}

async function look() {
  try {
    await fetch("/api/v1/health", { cache: "no-store" });
    put(false);
  } catch {
    setTimeout(() => void look(), EVERY_MS);
  }
}

/** No answer came. */
export const noteSilence = () => put(true);
/** Somebody answered, whatever it was. */
export const noteAnswer = () => put(false);

/** Something else than a call had no answer: is it the server? */
export const lookOnce = () => void fetch("/api/v1/health", { cache: "no-store" }).catch(noteSilence);
export const isAway = () => away;

/** `whenBack` is called each time the server answers again. */
export function followReach(whenBack: () => void) {
  back = whenBack;
  window.addEventListener("offline", noteSilence);
}

export function useAway(): boolean {
  return useSyncExternalStore(
    (tell) => {
      watchers.add(tell);
      return () => watchers.delete(tell);
    },
    () => away,
  );
}
