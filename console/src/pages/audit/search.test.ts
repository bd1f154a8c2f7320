import { expect, it } from "vitest";

import { asked, validateAuditSearch } from "./search";

it("asks for what the address says", () => {
  const search = validateAuditSearch({ who: "ann", action: "", since: "day", x: 1 });
  expect(search).toEqual({ who: "ann", since: "day" });
  expect(asked(search, new Date("2026-03-02T12:00:00Z"))).toEqual({ who: "ann", after: "2026-03-01T12:00:00.000Z" });
  expect(asked(validateAuditSearch({ since: "eon" }), new Date())).toEqual({});
});
