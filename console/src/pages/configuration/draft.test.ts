import { describe, expect, it } from "vitest";

import {
  conflictsOf,
  edited,
  inputOf,
  patchOf,
  rebased,
  shortDuration,
  theirsAlone,
  typedSince,
  valueOf,
  type Draft,
} from "./draft";

const NOW = { enabled: true, interval_seconds: 900, keep: 2, diagnosis: false };
const typed = (now: object, edits: Record<string, string | boolean>): Draft | undefined =>
  Object.entries(edits).reduce<Draft | undefined>(
    (draft, [field, input]) => edited("checkpoint", draft, now as Record<string, unknown>, field, input),
    undefined,
  );

describe("durations", () => {
  it.each([
    [0, "0"],
    [0.5, "0.5s"],
    [59, "59s"],
    [900, "15m"],
    [5400, "1h30m"],
    [3601, "1h1s"],
    [259200, "72h"],
    [110.5, "110.5s"],
  ])("%d s is written %s", (seconds, text) => expect(shortDuration(seconds)).toBe(text));
});

describe("controls and values", () => {
  it("lists are lines, without empty ones", () => {
    expect(inputOf("lines", ["/a", "/b"])).toBe("/a\n/b");
    expect(valueOf("lines", " /a \n\n/b\n")).toEqual(["/a", "/b"]);
  });
  it("an empty path is none", () => {
    expect(inputOf("path", null)).toBe("");
    expect(valueOf("path", "  ")).toBeNull();
  });
  it("what is no number is sent as it is, for the API to refuse", () => {
    expect(valueOf("integer", "12")).toBe(12);
    expect(valueOf("integer", "12 GiB")).toBe("12 GiB");
    expect(valueOf("integer", "")).toBe("");
  });
  it("tags are a map", () => {
    expect(valueOf("tags", [{ key: " team ", value: "genomics" }])).toEqual({ team: "genomics" });
  });
});

describe("a draft", () => {
  it("holds what differs, and is none when nothing does", () => {
    const draft = typed(NOW, { keep: "3", interval_seconds: "10m" });
    expect(patchOf("checkpoint", draft)).toEqual({ keep: 3, interval_seconds: "10m" });
    expect(typed(NOW, { keep: "3", interval_seconds: "15m" })?.edits).toEqual({ keep: "3" });
    expect(edited("checkpoint", typed(NOW, { keep: "3" }), NOW, "keep", "2")).toBeUndefined();
  });

  it("keeps what was typed while it was being saved", () => {
    const sent = typed(NOW, { keep: "3", interval_seconds: "600s" })!;
    const now = { ...NOW, keep: 3, interval_seconds: 600 };
    expect(typedSince("checkpoint", sent, sent, now)).toBeUndefined();
    const typedOn = edited("checkpoint", edited("checkpoint", sent, NOW, "keep", "4"), NOW, "diagnosis", true);
    expect(typedSince("checkpoint", typedOn, sent, now)).toEqual({ base: now, edits: { keep: "4", diagnosis: true } });
    expect(typedSince("checkpoint", undefined, sent, now)).toBeUndefined();
  });

  it("conflicts where somebody saved another value of the same field", () => {
    const draft = typed(NOW, { keep: "3", diagnosis: true });
    expect(conflictsOf("checkpoint", draft, { ...NOW, keep: 5, enabled: false })).toEqual([
      { field: "keep", before: 2, theirs: 5, yours: 3 },
    ]);
    expect(theirsAlone(draft, { ...NOW, keep: 5, enabled: false })).toEqual(["enabled"]);
  });

  it("does not conflict where both want the same, however it is written", () => {
    expect(conflictsOf("checkpoint", typed(NOW, { interval_seconds: "10m" }), { ...NOW, interval_seconds: 600 })).toEqual([]);
  });

  it("goes on upon what others saved, but for what was given up", () => {
    const theirs = { ...NOW, keep: 5, enabled: false };
    const draft = typed(NOW, { keep: "3", diagnosis: true })!;
    const mine = rebased("checkpoint", draft, theirs);
    expect(mine).toEqual({ base: theirs, edits: { keep: "3", diagnosis: true } });
    expect(rebased("checkpoint", draft, theirs, new Set(["keep"]))?.edits).toEqual({ diagnosis: true });
    expect(rebased("checkpoint", draft, theirs, new Set(["keep", "diagnosis"]))).toBeUndefined();
    expect(conflictsOf("checkpoint", mine, theirs)).toEqual([]);
  });

  it("compares maps without their order", () => {
    const now = { tags: { a: "1", b: "2" } };
    const draft: Draft = { base: now, edits: { tags: [{ key: "a", value: "1" }] } };
    expect(conflictsOf("job_volume", draft, { tags: { b: "2", a: "1" } })).toEqual([]);
  });
});
