import { expect, it } from "vitest";

import { exceeded, MOST, weigh, type Chunk } from "./budget";

const chunk = (bytes: number, ...imports: string[]): Chunk => ({ bytes, imports });
const CHUNKS = new Map<string, Chunk>([
  ["index.js", chunk(300_000)],
  ["table.js", chunk(40_000, "index.js")],
  ["select.js", chunk(20_000, "table.js")],
  ["dashboard.js", chunk(30_000, "index.js", "select.js")],
  ["chart.js", chunk(9_000, "select.js")],
  ["jobs.js", chunk(41_000, "table.js", "select.js")],
]);
const PAGES = new Map([
  ["dashboard", "dashboard.js"],
  ["jobs", "jobs.js"],
]);

it("counts once what several files need, and what every page needs with the first one alone", () =>
  expect(weigh(CHUNKS, "index.js", PAGES, ["chart.js"])).toEqual({
    every: 300_000,
    first: 399_000,
    further: { dashboard: 90_000, jobs: 101_000 },
  }));

it("says which page is too heavy", () => {
  expect(exceeded({ every: 1, first: MOST.first, further: { jobs: MOST.further } })).toEqual([]);
  expect(exceeded({ every: 1, first: 400_100, further: { jobs: 101_000, nodes: 3 } })).toEqual([
    "The first page weighs 400.1 KB; it may weigh 400.0 KB.",
    "The page jobs adds 101.0 KB; it may add 100.0 KB.",
  ]);
});
