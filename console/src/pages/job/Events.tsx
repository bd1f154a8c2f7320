import { useCollection } from "@cloudscape-design/collection-hooks";
import Box from "@cloudscape-design/components/box";
import Header from "@cloudscape-design/components/header";
import Pagination from "@cloudscape-design/components/pagination";
import StatusIndicator, { type StatusIndicatorProps } from "@cloudscape-design/components/status-indicator";
import Table from "@cloudscape-design/components/table";
import TextFilter from "@cloudscape-design/components/text-filter";
import { useInfiniteQuery } from "@tanstack/react-query";

import { api, wanted, type Schema } from "../../api/client";
import { Prose } from "../../components/Prose";
import { Time } from "../../components/Time";
import { count } from "../../format";
import type { Job } from ".";

type Event = Schema<"EventView">;
const WITH_JOB = 500;
const PAGE = 200;
const LEVELS: Record<string, StatusIndicatorProps.Type> = { info: "info", warning: "warning", error: "error" };

/** The rest of a long timeline, in one go: the job itself brings its first 500 lines. */
function useRest(job: Job): Event[] {
  const last = job.events.at(-1)?.sequence ?? 0;
  const { data, hasNextPage, fetchNextPage, isFetching } = useInfiniteQuery({
    queryKey: ["job", job.job_id, "events-after", last],
    enabled: job.events.length >= WITH_JOB,
    initialPageParam: last,
    queryFn: ({ pageParam }) =>
      wanted(
        api.GET("/api/v1/jobs/{job_id}/events", {
          params: { path: { job_id: job.job_id }, query: { after: pageParam, limit: PAGE } },
        }),
      ),
    getNextPageParam: (page) => (page.length < PAGE ? undefined : page.at(-1)?.sequence),
  });
  if (hasNextPage && !isFetching) void fetchNextPage();
  return data?.pages.flat() ?? [];
}

export function Events({ job }: { job: Job }) {
  const rest = useRest(job);
  const all = [...job.events, ...rest];
  const { items, collectionProps, filterProps, paginationProps, filteredItemsCount } = useCollection(all, {
    filtering: {
      fields: ["message", "kind", "level"],
      empty: <Box textAlign="center">Nothing has happened yet.</Box>,
      noMatch: <Box textAlign="center">No event matches.</Box>,
    },
    pagination: { pageSize: 50 },
    sorting: { defaultState: { sortingColumn: { sortingField: "sequence" }, isDescending: true } },
  });
  return (
    <Table
      {...collectionProps}
      items={items}
      trackBy="sequence"
      variant="container"
      contentDensity="compact"
      wrapLines
      ariaLabels={{ tableLabel: "Events of the job" }}
      header={<Header counter={`(${count(all.length)})`}>Events</Header>}
      filter={
        <TextFilter
          {...filterProps}
          filteringPlaceholder="Find events"
          filteringAriaLabel="Find events"
          countText={`${filteredItemsCount ?? 0} found`}
        />
      }
      pagination={<Pagination {...paginationProps} />}
      columnDefinitions={[
        { id: "at", header: "When", cell: (one) => <Time at={one.at} />, sortingField: "sequence", width: 190 },
        {
          id: "kind",
          header: "What",
          cell: (one) => <StatusIndicator type={LEVELS[one.level] ?? "info"}>{one.kind}</StatusIndicator>,
          sortingField: "kind",
          width: 180,
        },
        { id: "message", header: "In words", cell: (one) => <Prose text={one.message} />, isRowHeader: true },
      ]}
    />
  );
}
