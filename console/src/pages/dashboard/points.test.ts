import { expect, it } from "vitest";

import { summed } from "./points";

it("sums groups that end now, and leaves an incomplete first one out", () => {
  expect(summed([9, 1, 2, 3, 4], 2)).toEqual([3, 7]);
  expect(summed([1, null, 3], 1)).toEqual([1, 0, 3]);
  expect(summed([], 3)).toEqual([]);
});
