import { expect, it } from "vitest";

import { linesOf, undoneIn, type ContainerOutput } from "./printed";

const at = "2026-03-01T12:00:00Z";
const line = (text: string, undone = false) => ({ at, text, undone });
const container = { lines: [line("one"), line("two"), line("three", true), line("four", true)] } as ContainerOutput;

const words = (all: boolean) => linesOf(container, all).map((run) => [run.undone, run.text.match(/[a-z]+(?=\n)/g)]);

it("shows each line once", () => expect(words(false)).toEqual([[false, ["one", "two"]]]));

it("shows what was undone when it is asked for", () =>
  expect(words(true)).toEqual([
    [false, ["one", "two"]],
    [true, ["three", "four"]],
  ]));

it("counts what was undone", () => expect(undoneIn([container, container])).toBe(4));
