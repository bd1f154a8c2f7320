// @vitest-environment jsdom
import { afterEach, describe, expect, it } from "vitest";

import { isServersOwn, safeNext, takeProblem } from "./next";

describe("where one goes after signing in", () => {
  it.each([
    ["/jobs/5b3f?tab=log#end", "/jobs/5b3f?tab=log#end"],
    ["/jobs?filter=%7B%22a%22%3A1%7D", "/jobs?filter=%7B%22a%22%3A1%7D"],
    ["/docs", "/docs"],
    [undefined, "/"],
    ["", "/"],
    ["//evil.example", "/"],
    ["/\\evil.example", "/"],
    ["https://evil.example", "/"],
    ["javascript:alert(1)", "/"],
    ["/\tevil", "/"],
    ["/sign-in?next=/sign-in", "/"],
  ])("%s leads to %s", (wanted, leads) => expect(safeNext(wanted)).toBe(leads));

  it("knows the pages that the console does not draw", () => {
    expect(isServersOwn("/docs")).toBe(true);
    expect(isServersOwn("/documents")).toBe(false);
    expect(isServersOwn("/")).toBe(false);
  });
});

describe("what the server has to say", () => {
  afterEach(() => {
    document.cookie = "perdure-sign-in-problem=; Max-Age=0; Path=/sign-in";
  });

  it("is nothing as a rule", () => expect(takeProblem()).toBe(""));

  it("is read from its cookie", () => {
    document.cookie = `perdure-sign-in-problem=${encodeURIComponent("This took too long; begin again.")}`;
    expect(takeProblem()).toBe("This took too long; begin again.");
  });
});
