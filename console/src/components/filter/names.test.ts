import { expect, it } from "vitest";

import { namesIn, namesOfTokens, optionsOf, tokensOfNames } from "./names";

const PROPERTIES = ["zone", "node"] as const;

it("takes what the API takes, and each name once", () => {
  expect(namesIn({ zone: ["us-east-1a", "us-east-1a", "no name", 7], node: "i-1", evil: "x" }, PROPERTIES)).toEqual({
    zone: ["us-east-1a"],
    node: ["i-1"],
  });
  expect(namesIn({ zone: Array.from({ length: 30 }, (_, at) => `z${at}`) }, PROPERTIES).zone).toHaveLength(20);
});

it("makes tokens, and the same names of these", () => {
  const names = { zone: ["us-east-1a", "us-east-1b"], node: ["i-1"] };
  expect(namesOfTokens(tokensOfNames(names, PROPERTIES), PROPERTIES)).toEqual(names);
});

it("puts tokens of one property together", () => {
  const tokens = [
    { propertyKey: "node", operator: "=", value: "i-1" },
    { propertyKey: "node", operator: "=", value: ["i-2", "i-1"] },
    { operator: ":", value: "text" },
  ];
  expect(namesOfTokens(tokens, PROPERTIES)).toEqual({ node: ["i-1", "i-2"] });
});

it("offers what is there, sorted", () =>
  expect(optionsOf("zone", ["b", null, "a", "b", ""])).toEqual([
    { propertyKey: "zone", value: "a" },
    { propertyKey: "zone", value: "b" },
  ]));
