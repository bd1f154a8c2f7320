import { describe, expect, it } from "vitest";

import { asked, csvAddress, validateNodesSearch } from "./search";

describe("the address of the list of nodes", () => {
  it("keeps what it knows and drops the rest", () => {
    expect(validateNodesSearch({ q: "i-1", show: "ended", zone: "us-east-1a", sort: "-ended_at", other: 1 })).toEqual({
      q: "i-1",
      show: "ended",
      zone: ["us-east-1a"],
      sort: "-ended_at",
    });
    expect(validateNodesSearch({ q: 7, show: "x", sort: "x" })).toEqual({});
  });

  it("asks the API for live or ended nodes, the newest first", () => {
    expect(asked({})).toEqual({ q: "", state: [], sort: "-first_seen_at" });
    expect(asked({ show: "live", q: "m5", zone: ["us-east-1a"] })).toEqual({
      q: "m5",
      zone: ["us-east-1a"],
      state: ["ready", "noticed"],
      sort: "-first_seen_at",
    });
  });

  it("gives the CSV the same filter", () => {
    expect(csvAddress({ q: "us-east-1a & more" }, "gone")).toBe("/api/v1/nodes.csv?state=gone&q=us-east-1a+%26+more");
    expect(csvAddress({ zone: ["a", "b"], instance_type: ["m5.large"] }, "gone")).toBe(
      "/api/v1/nodes.csv?state=gone&zone=a&zone=b&instance_type=m5.large",
    );
    expect(csvAddress({}, "all")).toBe("/api/v1/nodes.csv?state=all");
  });
});
