/** What the address of the dashboard says: the span of time. Nothing: the last seven days. */
export type DashboardSearch = { range?: string; from?: string; until?: string };

export const RANGES = {
  "1h": { hours: 1, unit: "hour", amount: 1 },
  "24h": { hours: 24, unit: "hour", amount: 24 },
  "7d": { hours: 7 * 24, unit: "day", amount: 7 },
  "30d": { hours: 30 * 24, unit: "day", amount: 30 },
  "90d": { hours: 90 * 24, unit: "day", amount: 90 },
} as const;
export type RangeKey = keyof typeof RANGES;
export const USUAL: RangeKey = "7d";
export const ALL = "all";
/** Calendar months of UTC, as AWS bills them: how many months ago. */
export const MONTHS = { month: 0, "last-month": 1 } as const;

const instant = (value: unknown): string | undefined =>
  typeof value === "string" && !Number.isNaN(Date.parse(value)) ? value : undefined;

export function validateDashboardSearch(search: Record<string, unknown>): DashboardSearch {
  const [from, until] = [instant(search.from), instant(search.until)];
  if (from && until) return { from, until };
  const range = search.range;
  return typeof range === "string" && (range in RANGES || range in MONTHS || range === ALL) && range !== USUAL ? { range } : {};
}

export type Bounds = { start?: string; end?: string };
type Level = "minute" | "hour" | "day";

/** Instants to ask for. A span that ends now has no end: what happens meanwhile counts, too. */
export function bounds(search: DashboardSearch, now: number): Bounds {
  if (search.from && search.until) return { start: search.from, end: search.until };
  if (search.range === ALL) return {};
  if (search.range !== undefined && search.range in MONTHS) return monthOf(MONTHS[search.range as keyof typeof MONTHS], now);
  const { hours } = RANGES[(search.range ?? USUAL) as RangeKey];
  return { start: new Date(now - hours * 3_600_000).toISOString() };
}

function monthOf(ago: number, now: number): Bounds {
  const today = new Date(now);
  const first = (months: number) => new Date(Date.UTC(today.getUTCFullYear(), today.getUTCMonth() - months)).toISOString();
  return ago === 0 ? { start: first(0) } : { start: first(ago), end: first(ago - 1) };
}

/** So that a chart has some dozens of points. Over all time: days, as far back as the API shows them by itself. */
export function levelOf({ start, end }: Bounds, now: number): Level {
  if (!start) return "day";
  const hours = ((end ? Date.parse(end) : now) - Date.parse(start)) / 3_600_000;
  // Minutes are kept for 7 days, hours for 90.
  const age = (now - Date.parse(start)) / 86_400_000;
  if (hours <= 3 && age < 7) return "minute";
  return hours <= 10 * 24 && age < 90 ? "hour" : "day";
}
