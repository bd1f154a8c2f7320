/** What the address of the audit log says. */
export type Since = "hour" | "day" | "week";
export type AuditSearch = { who?: string; action?: string; since?: Since };

const SECONDS: Record<Since, number> = { hour: 3600, day: 86_400, week: 7 * 86_400 };
const text = (value: unknown) => (typeof value === "string" && value ? value.slice(0, 200) : undefined);

export const validateAuditSearch = (search: Record<string, unknown>): AuditSearch => ({
  who: text(search.who),
  action: text(search.action),
  since: (Object.keys(SECONDS) as Since[]).find((one) => one === search.since),
});

/** The same as the API asks it. */
export function asked({ who, action, since }: AuditSearch, now: Date) {
  const after = since && new Date(now.getTime() - 1000 * SECONDS[since]).toISOString();
  return { who, action, after };
}
