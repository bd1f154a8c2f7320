import { expect, it } from "vitest";

import { told } from "./told";

it("tells details in one line", () => {
  expect(told({ fields: ["keep", "enabled"], role: "admin" })).toBe("fields: keep, enabled; role: admin");
  expect(told({ areas: [] })).toBe("areas: none");
  expect(told({})).toBe("");
});
