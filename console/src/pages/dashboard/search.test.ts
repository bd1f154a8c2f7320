import { expect, it } from "vitest";

import { bounds, levelOf, validateDashboardSearch } from "./search";

it("counts whole months as AWS bills them, over the end of a year, too", () => {
  const now = Date.parse("2027-01-31T23:30:00Z");
  expect(bounds(validateDashboardSearch({ range: "month" }), now)).toEqual({ start: "2027-01-01T00:00:00.000Z" });
  const last = bounds(validateDashboardSearch({ range: "last-month" }), now);
  expect(last).toEqual({ start: "2026-12-01T00:00:00.000Z", end: "2027-01-01T00:00:00.000Z" });
  expect(levelOf(last, now)).toBe("day");
});
