/** Numbers and times as people read them. Times are local; the exact UTC instant is one hover away (components/Time). */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"] as const;

export function bytes(value: number | null | undefined): string {
  if (value == null) return "–";
  let [amount, unit] = [value, 0];
  while (amount >= 1024 && unit < UNITS.length - 1) [amount, unit] = [amount / 1024, unit + 1];
  return `${unit === 0 || amount >= 100 ? Math.round(amount) : amount.toFixed(1)} ${UNITS[unit]}`;
}

/** Seconds as the two largest units that matter: `0.42 s`, `12 s`, `3 min 4 s`, `2 h 5 min`, `3 d 4 h`. */
export function duration(seconds: number | null | undefined): string {
  if (seconds == null) return "–";
  if (seconds < 0) return `-${duration(-seconds)}`;
  if (seconds < 10 && !Number.isInteger(seconds)) return `${seconds < 1 ? seconds.toFixed(2) : seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  const [d, h, m, s] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
  if (d > 0) return h > 0 ? `${d} d ${h} h` : `${d} d`;
  if (h > 0) return m > 0 ? `${h} h ${m} min` : `${h} h`;
  if (m > 0) return s > 0 ? `${m} min ${s} s` : `${m} min`;
  return `${s} s`;
}

/** Dollars: cents, and more places where cents would say nothing. */
export function dollars(value: number | null | undefined): string {
  if (value == null) return "–";
  const size = Math.abs(value);
  const places = size === 0 || size >= 1 ? 2 : size >= 0.01 ? 3 : 5;
  const text = size.toLocaleString("en-US", { minimumFractionDigits: 2, maximumFractionDigits: places });
  return `${value < 0 ? "−" : ""}$${text}`;
}

/** Made once: making one takes longer than a row of a list. */
const COUNTS = new Intl.NumberFormat("en-US");

export function count(value: number | null | undefined): string {
  return value == null ? "–" : COUNTS.format(value);
}

export function hours(value: number | null | undefined): string {
  if (value == null) return "–";
  const size = Math.abs(value);
  const places = size >= 100 || size === 0 ? 0 : size >= 1 ? 1 : 3;
  return `${value.toLocaleString("en-US", { maximumFractionDigits: places })} h`;
}

export function percent(value: number | null | undefined): string {
  return value == null ? "–" : `${(100 * value).toLocaleString("en-US", { maximumFractionDigits: 1 })} %`;
}

/** A value of a report's metric, by the unit that it names. */
export function amount(value: number | null | undefined, unit: string): string {
  switch (unit) {
    case "USD":
      return dollars(value);
    case "hours":
      return hours(value);
    case "share":
      return percent(value);
    default:
      return count(value);
  }
}

const LOCAL = new Intl.DateTimeFormat(undefined, {
  year: "numeric",
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
});

const THIS_YEAR = new Intl.DateTimeFormat(undefined, {
  month: "short",
  day: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  hourCycle: "h23",
});
const ANOTHER_YEAR = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric" });

/** To the minute; of another year than `now`'s, the day. */
export const briefTime = (at: Date, now: Date): string =>
  (at.getFullYear() === now.getFullYear() ? THIS_YEAR : ANOTHER_YEAR).format(at);

export const localTime = (at: Date): string => LOCAL.format(at);
export const utcTime = (at: Date): string => `${at.toISOString().slice(0, 19).replace("T", " ")} UTC`;

export const utcMinute = (at: Date): string => at.toISOString().slice(0, 16).replace("T", " ");

/** How long ago, in one unit. */
export function ago(at: Date, now: Date): string {
  const seconds = (now.getTime() - at.getTime()) / 1000;
  if (seconds < 5) return "just now";
  const [size, name] = (
    [
      [86400, "d"],
      [3600, "h"],
      [60, "min"],
      [1, "s"],
    ] as const
  ).find(([one]) => seconds >= one)!;
  return `${Math.floor(seconds / size)} ${name} ago`;
}
