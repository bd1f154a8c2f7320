/** What the address of the list of jobs says. Whatever is not usable is left out: an address may be typed by hand. */
import type { JobState } from "../../components/JobStatus";
import { namesIn, texts } from "../../components/filter/names";
import { FINISHED, STATES } from "../../components/JobStatus";

export const UNFINISHED = "unfinished";
export const SORTS = ["created_at", "finished_at", "name", "protections"] as const;
export type SortKey = (typeof SORTS)[number];
export type Status = JobState | typeof UNFINISHED;

export type JobsSearch = {
  q?: string;
  status?: Status[];
  queue?: string[];
  zone?: string[];
  node?: string[];
  /** Only jobs that a reclaim would cost their work. */
  unprotected?: true;
  created_after?: string;
  created_before?: string;
  finished_after?: string;
  finished_before?: string;
  sort?: SortKey | `-${SortKey}`;
  /** The page's number, for people, and the cursor that leads there. */
  page?: number;
  cursor?: string;
};

/** Properties of which several names may be asked for. */
export const NAMES = ["queue", "zone", "node"] as const;
export const TIMES = ["created_after", "created_before", "finished_after", "finished_before"] as const;

export function validateJobsSearch(search: Record<string, unknown>): JobsSearch {
  const found: JobsSearch = {};
  const [q] = texts(search.q);
  if (q) found.q = q.slice(0, 200);
  const status = texts(search.status).filter((one): one is Status => one === UNFINISHED || STATES.includes(one as JobState));
  if (status.length > 0) found.status = status;
  Object.assign(found, namesIn(search, NAMES));
  if (search.unprotected === true) found.unprotected = true;
  for (const time of TIMES) {
    const [value] = texts(search[time]);
    if (value && !Number.isNaN(Date.parse(value))) found[time] = value;
  }
  const [sort] = texts(search.sort);
  if (sort && SORTS.includes(sort.replace(/^-/, "") as SortKey)) found.sort = sort as JobsSearch["sort"];
  const [cursor] = texts(search.cursor);
  const page = Number(search.page);
  if (cursor && Number.isInteger(page) && page > 1) Object.assign(found, { cursor, page });
  return found;
}

/** The states to ask for. */
export function statesOf(status: Status[] | undefined): JobState[] | undefined {
  if (!status) return undefined;
  return [...new Set(status.flatMap((one) => (one === UNFINISHED ? STATES.filter((state) => !FINISHED.has(state)) : [one])))];
}
