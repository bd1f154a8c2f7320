import type { Token } from "./queries";

export type Standing = "good" | "soon" | "expired" | "revoked";
const SOON_SECONDS = 14 * 86_400;

/** Whether a token opens anything, and whether somebody should think of its end. */
export function standingOf(token: Pick<Token, "revoked_at" | "expires_at">, now: number): Standing {
  if (token.revoked_at) return "revoked";
  const left = (Date.parse(token.expires_at) - now) / 1000;
  if (left <= 0) return "expired";
  return left < SOON_SECONDS ? "soon" : "good";
}
