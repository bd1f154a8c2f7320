import { describe, expect, it } from "vitest";

import { slots } from "./slots";

describe("rows of the list", () => {
  it("pass on to other jobs when all are others", () => {
    const before = slots(new Map(), ["a", "b", "c"]);
    expect([...slots(before, ["d", "e"])]).toEqual([["d", 0], ["e", 1]]);
  });

  it("stay with their jobs; what comes takes the place of what goes", () => {
    const before = slots(new Map(), ["a", "b", "c"]);
    const now = slots(before, ["new", "a", "b"]);
    expect(Object.fromEntries(now)).toEqual({ new: 2, a: 0, b: 1 });
  });

  it("never share a slot", () => {
    let now = slots(new Map(), ["a", "b", "c", "d"]);
    now = slots(now, ["d", "e", "f", "g", "h"]);
    expect(new Set(now.values()).size).toBe(5);
  });
});
