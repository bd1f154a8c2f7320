/** What the list of jobs asks for: one page of it, filtered and sorted by the server. */
import { keepPreviousData, queryOptions } from "@tanstack/react-query";

import { api, wanted } from "../../api/client";
import { preference } from "../../preferences";
import { statesOf, type JobsSearch } from "./search";

export function queryOf(search: JobsSearch) {
  const { status, page: _page, ...asked } = search;
  return { ...asked, status: statesOf(status) };
}

export const TABLE = "jobs-table";
export const USUAL_SIZE = 25;
/** Jobs on a page, as it was chosen here. */
export const pageSize = (): number => preference(TABLE, { pageSize: USUAL_SIZE }).pageSize;

export const jobsQuery = (search: JobsSearch, limit: number) =>
  queryOptions({
    queryKey: ["jobs", queryOf(search), limit],
    queryFn: ({ signal }) =>
      wanted(api.GET("/api/v1/jobs", { params: { query: { ...queryOf(search), limit, detail: true } }, signal })),
    placeholderData: keepPreviousData,
  });

/** For the filter: names to choose from. */
export const queueNamesQuery = queryOptions({
  queryKey: ["queue-names"],
  queryFn: async () => (await wanted(api.GET("/api/v1/queues"))).map((one) => one.queue).filter(Boolean),
  staleTime: 5 * 60_000,
});
