import { describe, expect, it } from "vitest";

import { ago, amount, briefTime, bytes, dollars, duration, hours } from "./format";

describe("numbers as people read them", () => {
  it.each([
    [0, "0 s"],
    [0.42, "0.42 s"],
    [4.24, "4.2 s"],
    [59.6, "1 min"],
    [184, "3 min 4 s"],
    [7500, "2 h 5 min"],
    [86_400 * 3 + 14_400, "3 d 4 h"],
    [-5, "-5 s"],
    [null, "–"],
  ])("a duration of %s", (seconds, text) => expect(duration(seconds)).toBe(text));

  it.each([
    [0, "$0.00"],
    [1234.5, "$1,234.50"],
    [0.0421, "$0.042"],
    [0.5, "$0.50"],
    [0.00207, "$0.00207"],
    [-1.5, "−$1.50"],
  ])("dollars %s", (value, text) => expect(dollars(value)).toBe(text));

  it("bytes, hours and shares", () => {
    expect(bytes(172_032)).toBe("168 KiB");
    expect(bytes(3 * 2 ** 30)).toBe("3.0 GiB");
    expect(hours(0.2362625)).toBe("0.236 h");
    expect(amount(0.98765, "share")).toBe("98.8 %");
    expect(amount(12, "count")).toBe("12");
    expect(amount(null, "USD")).toBe("–");
  });

  it("says the minute in a list, and of another year the day", () => {
    const now = new Date(2026, 2, 1, 12);
    expect(briefTime(new Date(2026, 1, 3, 9, 5, 59), now)).toMatch(/Feb 3, 09:05$/);
    expect(briefTime(new Date(2025, 11, 31, 9, 5), now)).toBe("Dec 31, 2025");
  });

  it("says how long ago", () => {
    const now = new Date("2026-03-01T12:00:00Z");
    expect(ago(new Date("2026-03-01T11:59:58Z"), now)).toBe("just now");
    expect(ago(new Date("2026-03-01T11:58:00Z"), now)).toBe("2 min ago");
    expect(ago(new Date("2026-02-26T12:00:00Z"), now)).toBe("3 d ago");
  });
});
