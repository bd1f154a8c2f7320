/**
 * What a page may weigh: JavaScript as it is sent, gzipped. A build that exceeds it fails, and says which page does.
 *
 * A page's weight is what the browser must have to show it: its module and all that this imports at once. What is loaded
 * later (a tab, a calendar, the charts) is not part of it; but the first page may not exceed its limit with that either.
 */
import { gzipSync } from "node:zlib";

import type { Plugin } from "vite";

/** Bytes. The first page: with what every page needs. Any further one: beside that. */
export const MOST = { first: 400_000, further: 100_000 };
/** The page that a person sees first, and what it loads by itself when it is there. */
const FIRST = { page: "dashboard", later: ["src/pages/dashboard/Chart.tsx"] };

export type Chunk = { bytes: number; imports: readonly string[] };
export type Weights = { every: number; first: number; further: Record<string, number> };

/** `chunks`, `entry` and `pages` by file name; `later`: files that the first page loads by itself. */
export function weigh(
  chunks: ReadonlyMap<string, Chunk>,
  entry: string,
  pages: ReadonlyMap<string, string>,
  later: readonly string[] = [],
): Weights {
  const every = needed(chunks, [entry]);
  const sum = (files: Iterable<string>) => [...files].reduce((total, file) => total + (chunks.get(file)?.bytes ?? 0), 0);
  const beside = (file: string) => sum([...needed(chunks, [file])].filter((one) => !every.has(one)));
  return {
    every: sum(every),
    first: sum(needed(chunks, [entry, pages.get(FIRST.page) ?? entry, ...later])),
    further: Object.fromEntries([...pages].map(([page, file]) => [page, beside(file)])),
  };
}

/** A sentence for each page that is too heavy. */
export function exceeded({ first, further }: Weights): string[] {
  const pages = Object.entries(further).filter(([, bytes]) => bytes > MOST.further);
  return [
    ...(first > MOST.first ? [`The first page weighs ${kb(first)}; it may weigh ${kb(MOST.first)}.`] : []),
    ...pages.map(([page, bytes]) => `The page ${page} adds ${kb(bytes)}; it may add ${kb(MOST.further)}.`),
  ];
}

function needed(chunks: ReadonlyMap<string, Chunk>, files: readonly string[]): Set<string> {
  const found = new Set(files);
  for (const file of found) for (const one of chunks.get(file)?.imports ?? []) found.add(one);
  return found;
}

const kb = (bytes: number): string => `${(bytes / 1000).toFixed(1)} KB`;

/** Weighs what was built, and fails the build that is too heavy. */
export function budget(): Plugin {
  return {
    name: "budget",
    apply: "build",
    enforce: "post",
    generateBundle: {
      order: "post",
      handler(_, bundle) {
        const chunks = new Map<string, Chunk>();
        const pages = new Map<string, string>();
        const later: string[] = [];
        let entry = "";
        for (const one of Object.values(bundle)) {
          if (one.type !== "chunk") continue;
          chunks.set(one.fileName, { bytes: gzipSync(one.code, { level: 9 }).length, imports: one.imports });
          if (one.isEntry) entry = one.fileName;
          for (const module of one.moduleIds) {
            const page = /\/src\/pages\/([^/]+)\/index\.tsx$/.exec(module)?.[1];
            if (page) pages.set(page, one.fileName);
            if (FIRST.later.some((path) => module.endsWith(`/${path}`))) later.push(one.fileName);
          }
        }
        const weights = weigh(chunks, entry, pages, later);
        const further = Object.entries(weights.further).sort(([, one], [, other]) => other - one);
        console.log(`first page ${kb(weights.first)}, of which ${kb(weights.every)} for every page; pages add`);
        console.log(further.map(([page, bytes]) => `${page} ${kb(bytes)}`).join(", "));
        const problems = exceeded(weights);
        if (later.length < FIRST.later.length) problems.push(`Not in the bundle: ${FIRST.later.join(", ")}.`);
        if (problems.length > 0) this.error(`Gzipped JavaScript: ${problems.join(" ")} See console/budget.ts.`);
      },
    },
  };
}
