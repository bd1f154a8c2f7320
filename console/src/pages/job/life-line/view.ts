/** The arithmetic of the life-line: which span of time is shown, where it is on the screen, and what is worth drawing. */
import type { Schema } from "../../../api/client";

export type LifeLine = Schema<"LifeLineView">;
export type Stretch = Schema<"StretchView">;
export type Mark = Schema<"MarkView">;
export type Kind = Stretch["kind"];

/** A span of time, milliseconds since 1970. */
export type Span = { from: number; until: number };

export const SHORTEST_MS = 1000;

export const WORDS: Record<Kind, string> = {
  start: "Start",
  run: "Run",
  lost: "Lost work, done again",
  freeze: "Freeze",
  dump: "Dump",
  "hand-over": "Hand-over",
  wait: "Wait for an instance",
  volume: "Volume",
  restore: "Restore",
};

export const begin = (one: Stretch): number => Date.parse(one.started_at);
export const end = (one: Stretch, now: number): number => (one.ended_at ? Date.parse(one.ended_at) : now);

/** The whole life, with a little room at both ends so that the first and the last bar are seen to begin and to end. */
export function wholeLife(line: LifeLine, now: number): Span {
  const first = Math.min(now, ...line.stretches.map(begin));
  const last = Math.max(...line.stretches.map((one) => end(one, now)), first + SHORTEST_MS);
  const room = (last - first) * 0.015;
  return { from: first - room, until: last + room };
}

/** `factor` below 1 comes nearer; the instant `at` stays where it is on the screen. Never beyond `whole`. */
export function zoomed(span: Span, factor: number, at: number, whole: Span): Span {
  const length = Math.min(Math.max((span.until - span.from) * factor, SHORTEST_MS), whole.until - whole.from);
  const share = (at - span.from) / (span.until - span.from);
  const from = at - share * length;
  return within({ from, until: from + length }, whole);
}

/** Moved by a share of its length, and not out of the picture. */
export function moved(span: Span, share: number, whole: Span): Span {
  const by = (span.until - span.from) * share;
  return within({ from: span.from + by, until: span.until + by }, whole);
}

function within(span: Span, whole: Span): Span {
  const length = span.until - span.from;
  if (span.from < whole.from) return { from: whole.from, until: whole.from + length };
  if (span.until > whole.until) return { from: whole.until - length, until: whole.until };
  return span;
}

export type Outage = Span & { seconds: number; epoch: number };
const STILL = new Set<Kind>(["freeze", "dump", "hand-over", "wait", "volume", "restore"]);

/** Times in which the job stood still because of a reclaim: stretches without a run in between. */
export function outages(line: LifeLine, now: number): Outage[] {
  const found: Outage[] = [];
  let open = false;
  for (const one of line.stretches) {
    if (!STILL.has(one.kind)) {
      open = false;
      continue;
    }
    const span = { from: begin(one), until: end(one, now) };
    const last = found.at(-1);
    if (open && last) last.until = Math.max(last.until, span.until);
    else found.push({ ...span, seconds: 0, epoch: one.epoch });
    open = true;
  }
  return found.map((one) => ({ ...one, seconds: (one.until - one.from) / 1000 }));
}

/** An outage with as much again around it. */
export function around(outage: Span, whole: Span): Span {
  const room = Math.max((outage.until - outage.from) * 0.15, SHORTEST_MS);
  return { from: Math.max(whole.from, outage.from - room), until: Math.min(whole.until, outage.until + room) };
}

/** Seconds by kind, for the legend. Freezes for checkpoints after which the job ran on count as freeze, not as run. */
export function totals(line: LifeLine, now: number): [Kind, number][] {
  const sums = new Map<Kind, number>();
  const add = (kind: Kind, seconds: number) => sums.set(kind, (sums.get(kind) ?? 0) + seconds);
  for (const one of line.stretches) add(one.kind, (end(one, now) - begin(one)) / 1000);
  const stood = line.marks.filter((one) => one.kind !== "final").reduce((sum, one) => sum + (one.stood_seconds ?? 0), 0);
  if (stood > 0) {
    add("freeze", stood);
    add("run", -stood);
  }
  return (Object.keys(WORDS) as Kind[]).filter((kind) => (sums.get(kind) ?? 0) > 0).map((kind) => [kind, sums.get(kind)!]);
}

const STEPS_S = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 259200, 345600, 604800];

export type Tick = { at: number; text: string };

/** Whole minutes, hours or days of local time, so many that their words do not touch. */
export function ticks(span: Span, width: number): Tick[] {
  const most = Math.max(2, Math.floor(width / 110));
  const step = 1000 * (STEPS_S.find((one) => (span.until - span.from) / 1000 / one <= most) ?? 604800);
  const zone = new Date(span.from).getTimezoneOffset() * 60_000;
  const first = Math.ceil((span.from - zone) / step) * step + zone;
  const found: Tick[] = [];
  for (let at = first; at <= span.until && found.length < 40; at += step) found.push({ at, text: tickText(at, step) });
  return found;
}

function tickText(at: number, step: number): string {
  const instant = new Date(at);
  const day = instant.toLocaleDateString(undefined, { month: "short", day: "numeric" });
  if (step >= 86_400_000) return day;
  const midnight = instant.getHours() === 0 && instant.getMinutes() === 0 && instant.getSeconds() === 0;
  if (midnight) return day;
  const seconds = step < 60_000 ? ({ second: "2-digit" } as const) : {};
  return instant.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", ...seconds, hourCycle: "h23" });
}

/** Marks that can be told apart at this width: of those that would touch, the last one of each `apart` pixels. */
export function thinned(marks: Mark[], x: (at: number) => number, apart: number): Mark[] {
  const kept: Mark[] = [];
  let at = -Infinity;
  for (const mark of marks) {
    const here = x(Date.parse(mark.at));
    if (here - at < apart && kept.length > 0 && kept.at(-1)!.epoch === mark.epoch && mark.kind === kept.at(-1)!.kind)
      kept[kept.length - 1] = mark;
    else {
      kept.push(mark);
      at = here;
    }
  }
  return kept;
}

export type Row = { zone: string; instance: string; epochs: number[]; firstOfZone: boolean };

/** A row per instance, those of one zone together, both in the order in which the job came there. */
export function rows(line: LifeLine): Row[] {
  const zones = new Map<string, Map<string, number[]>>();
  for (const lane of line.lanes) {
    const zone = zones.get(lane.zone) ?? new Map<string, number[]>();
    zones.set(lane.zone, zone.set(lane.instance_id, [...(zone.get(lane.instance_id) ?? []), lane.epoch]));
  }
  return [...zones].flatMap(([zone, instances]) =>
    [...instances].map(([instance, epochs], place) => ({ zone, instance, epochs, firstOfZone: place === 0 })),
  );
}
