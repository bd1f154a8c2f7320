/** A word before the session ends: nobody is to lose what they typed because a clock ran out. */
import type { FlashbarProps } from "@cloudscape-design/components/flashbar";

import { useMe } from "../api/me";
import { duration } from "../format";
import { useNow } from "../hooks";

const WARN_SECONDS = 10 * 60;
const LOOK_MS = 20_000;

/** Null: it does not end soon, or there is no session that could. */
export function useSessionNotice(): FlashbarProps.MessageDefinition | null {
  const ends = useMe()?.session_ends_at;
  const now = useNow(LOOK_MS, Boolean(ends));
  if (!ends) return null;
  const left = (Date.parse(ends) - now) / 1000;
  if (left > WARN_SECONDS) return null;
  return {
    id: "session",
    type: "info",
    content: `Your session ends in ${duration(Math.max(0, Math.ceil(left / 60) * 60))}; you are asked to sign in again then. What you typed here stays.`,
  };
}
