import { describe, expect, it } from "vitest";

import { around, moved, outages, rows, thinned, ticks, totals, wholeLife, zoomed, type LifeLine, type Stretch } from "./view";

const T0 = Date.parse("2026-03-01T10:00:00Z");
const at = (seconds: number) => new Date(T0 + seconds * 1000).toISOString();
const stretch = (kind: Stretch["kind"], epoch: number, from: number, until: number | null): Stretch => ({
  kind,
  epoch,
  started_at: at(from),
  ended_at: until === null ? null : at(until),
  seconds: 0,
});

const LINE: LifeLine = {
  now: at(200),
  lanes: [
    { epoch: 1, attempt: 1, instance_id: "i-1", zone: "a", end: "handed over" },
    { epoch: 2, attempt: 2, instance_id: "i-2", zone: "b", end: null },
    { epoch: 3, attempt: 3, instance_id: "i-3", zone: "a", end: null },
    { epoch: 4, attempt: 4, instance_id: "i-2", zone: "b", end: null },
  ],
  stretches: [
    stretch("start", 1, 0, 3),
    stretch("run", 1, 3, 100),
    stretch("freeze", 1, 100, 101),
    stretch("dump", 1, 101, 105),
    stretch("wait", 2, 105, 140),
    stretch("restore", 2, 140, 150),
    stretch("run", 2, 150, null),
  ],
  marks: [
    { kind: "periodic", epoch: 1, at: at(50), number: 1, stood_seconds: 2 },
    { kind: "final", epoch: 1, at: at(100), number: 2, stood_seconds: 5 },
  ],
};
const NOW = T0 + 200_000;

describe("the life-line's arithmetic", () => {
  it("shows the whole life, up to now", () => {
    const { from, until } = wholeLife(LINE, NOW);
    expect(from).toBeLessThan(T0);
    expect(until).toBeGreaterThan(NOW);
    expect(until - from).toBeLessThan(210_000);
  });

  it("comes nearer to an instant that stays where it is, and never leaves the picture", () => {
    const whole = { from: 0, until: 1000_000 };
    const near = zoomed(whole, 0.5, 250_000, whole);
    expect(near).toEqual({ from: 125_000, until: 625_000 });
    expect(zoomed(near, 100, 300_000, whole)).toEqual(whole);
    expect(zoomed({ from: 0, until: 1500 }, 0.01, 0, whole)).toEqual({ from: 0, until: 1000 });
    expect(moved(near, -10, whole).from).toBe(0);
    expect(moved(near, 10, whole).until).toBe(1000_000);
  });

  it("finds the interruptions and looks at them from near", () => {
    const [only, ...others] = outages(LINE, NOW);
    expect(others).toEqual([]);
    expect(only).toMatchObject({ from: T0 + 100_000, until: T0 + 150_000, seconds: 50, epoch: 1 });
    const near = around(only!, wholeLife(LINE, NOW));
    expect(near.from).toBe(T0 + 92_500);
    expect(near.until).toBe(T0 + 157_500);
  });

  it("adds up by kind: time frozen for a checkpoint is no run time", () => {
    expect(totals(LINE, NOW)).toEqual([
      ["start", 3],
      ["run", 97 + 50 - 2],
      ["freeze", 1 + 2],
      ["dump", 4],
      ["wait", 35],
      ["restore", 10],
    ]);
  });

  it("gives each instance one row, those of a zone together, in the order of their first use", () => {
    expect(rows(LINE).map((row) => [row.zone, row.instance, row.epochs, row.firstOfZone])).toEqual([
      ["a", "i-1", [1], true],
      ["a", "i-3", [3], false],
      ["b", "i-2", [2, 4], true],
    ]);
  });

  it.each([120, 3600, 86_400, 14 * 86_400])("has some ticks and not too many for %d seconds", (seconds) => {
    const found = ticks({ from: T0, until: T0 + seconds * 1000 }, 800);
    expect(found.length).toBeGreaterThanOrEqual(2);
    expect(found.length).toBeLessThanOrEqual(8);
    expect(new Set(found.map((one) => one.at)).size).toBe(found.length);
  });

  it("thins out marks that would touch", () => {
    const marks = Array.from({ length: 1000 }, (_, number) => ({
      kind: "periodic",
      epoch: 1,
      at: at(number),
      number,
      stood_seconds: 1,
    }));
    const kept = thinned(marks, (time) => (time - T0) / 1000 / 2, 10);
    expect(kept.length).toBeLessThan(80);
    expect(kept.at(-1)?.number).toBe(999);
  });
});
