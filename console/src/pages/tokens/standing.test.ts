import { expect, it } from "vitest";

import { standingOf } from "./standing";

const NOW = Date.parse("2026-03-01T12:00:00Z");

it.each([
  ["good", "2026-06-01T00:00:00Z", null],
  ["soon", "2026-03-10T00:00:00Z", null],
  ["expired", "2026-03-01T12:00:00Z", null],
  ["revoked", "2026-06-01T00:00:00Z", "2026-02-01T00:00:00Z"],
  ["revoked", "2026-01-01T00:00:00Z", "2025-12-01T00:00:00Z"],
])("is %s until %s, revoked %s", (standing, expires_at, revoked_at) =>
  expect(standingOf({ expires_at, revoked_at }, NOW)).toBe(standing),
);
