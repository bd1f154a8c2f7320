import { expect, it } from "vitest";

import { failure, hint, startedClean } from "./why";

const line = (sequence: number, epoch: number, kind: string, level = "info") => ({
  sequence,
  at: "2026-03-01T12:00:00Z",
  epoch,
  kind,
  level,
  message: kind,
});

const ANEW = [
  line(1, 1, "started"),
  line(2, 2, "restore failed", "warning"),
  line(3, 2, "quarantined", "error"),
  line(4, 2, "started", "warning"),
  line(5, 2, "checkpoint"),
];

it("says why the container that is there started clean", () => {
  expect(startedClean({ epoch: 2, events: ANEW }).map((one) => one.sequence)).toEqual([2, 4]);
  expect(startedClean({ epoch: 1, events: ANEW })).toEqual([]);
  expect(startedClean({ epoch: 2, events: ANEW.slice(0, 3) })).toEqual([]);
});

it("says why a job failed: its last troubles and its end", () => {
  const events = [...ANEW, line(6, 2, "notice", "warning"), line(7, 2, "finished", "error")];
  expect(failure({ events }).map((one) => one.sequence)).toEqual([3, 4, 7]);
  expect(hint({ exit_code: 137, kept: null, diagnosis: false })).toContain("more memory");
  const kept = { checkpoint: 7, until: null, resumed_as: null };
  expect(hint({ exit_code: null, kept, diagnosis: false })).toContain("more attempts");
  expect(hint({ exit_code: 137, kept, diagnosis: true })).toContain("more memory");
});
