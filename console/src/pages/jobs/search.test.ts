import { describe, expect, it } from "vitest";

import { bounds, levelOf, validateDashboardSearch } from "../dashboard/search";
import { statesOf, validateJobsSearch } from "./search";
import { searchOf, tokensOf } from "./tokens";

describe("what addresses say", () => {
  it("keeps what is usable and leaves out the rest", () => {
    expect(
      validateJobsSearch({ status: ["Running", "nonsense"], queue: "spot", sort: "-name", created_after: "no", page: "x", evil: 1 }),
    ).toEqual({ status: ["Running"], queue: ["spot"], sort: "-name" });
    expect(validateJobsSearch({ page: 3, cursor: "abc" })).toEqual({ page: 3, cursor: "abc" });
    expect(validateJobsSearch({ page: 3 })).toEqual({});
    expect(validateJobsSearch({ sort: "zone" })).toEqual({});
  });

  it("makes tokens of an address, and the same address of these", () => {
    const search = validateJobsSearch({
      q: "align",
      status: ["unfinished", "Failed"],
      queue: ["spot"],
      zone: ["us-east-1a", "us-east-1b"],
      node: ["i-0abc"],
      unprotected: true,
      created_after: "2026-03-01T00:00:00.000Z",
      finished_before: "2026-03-02T00:00:00.000Z",
      sort: "name",
    });
    expect(searchOf(tokensOf(search), search)).toEqual(search);
  });

  it("puts several tokens of one property together", () => {
    const query = {
      operation: "and" as const,
      tokens: [
        { propertyKey: "status", operator: "=", value: ["Running"] },
        { propertyKey: "status", operator: "=", value: ["Failed", "Running"] },
        { propertyKey: "node", operator: "=", value: "i-1" },
        { propertyKey: "node", operator: "=", value: ["i-2", "no name"] },
        { operator: ":", value: "first" },
        { operator: ":", value: "second" },
      ],
    };
    expect(searchOf(query, {})).toEqual({ status: ["Running", "Failed"], node: ["i-1", "i-2"], q: "second" });
  });

  it("asks for every state that is not an end", () => {
    expect(statesOf(["unfinished"])).toHaveLength(11);
    expect(statesOf(["unfinished", "Failed", "Failed"])).toHaveLength(12);
    expect(statesOf(undefined)).toBeUndefined();
  });

  it("spans of the dashboard", () => {
    const now = Date.parse("2026-03-08T00:00:00Z");
    expect(validateDashboardSearch({ range: "7d" })).toEqual({});
    expect(validateDashboardSearch({ range: "nonsense" })).toEqual({});
    expect(bounds({}, now)).toEqual({ start: "2026-03-01T00:00:00.000Z" });
    expect(bounds({ range: "all" }, now)).toEqual({});
    expect(levelOf(bounds({ range: "1h" }, now), now)).toBe("minute");
    expect(levelOf(bounds({}, now), now)).toBe("hour");
    expect(levelOf(bounds({ range: "90d" }, now), now)).toBe("day");
    expect(levelOf({ start: "2025-11-01T00:00:00Z", end: "2025-11-01T01:00:00Z" }, now)).toBe("day");
  });
});
