import { expect, it } from "vitest";

import { told } from "./told";

it("tells details in one line", () => {
  expect(told({ fields: ["keep", "enabled"], role: "admin" })).toBe("fields: keep, enabled; role: admin");
  expect(told({ areas: [] })).toBe("areas: all");
  expect(told({ fields: [] })).toBe("fields: none");
  expect(told({})).toBe("");
});
