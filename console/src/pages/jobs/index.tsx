/** All jobs: filtered, sorted and paged by the server, kept in the address, and live. */
import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import CollectionPreferences from "@cloudscape-design/components/collection-preferences";
import Header from "@cloudscape-design/components/header";
import Pagination from "@cloudscape-design/components/pagination";
import SpaceBetween from "@cloudscape-design/components/space-between";
import Table from "@cloudscape-design/components/table";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useEffect, useRef } from "react";

import { useLive, type LiveChange } from "../../api/live";
import { Failure } from "../../components/Failure";
import { useAsked, useGathered, useTitle } from "../../hooks";
import { usePreference } from "../../preferences";
import { COLUMNS, USUAL, type JobRow, type JobsPreferences } from "./columns";
import { Filter } from "./Filter";
import { rememberJobs } from "./last";
import { jobsQuery, queryOf, TABLE } from "./queries";
import { NAMES, TIMES, validateJobsSearch, type JobsSearch, type SortKey } from "./search";
import { useSlots } from "./slots";

const GATHER_MS = 1000;
const NEWEST = "-created_at";

export default function Jobs() {
  const search = useSearch({ from: "/shell/jobs" });
  const wish = useAsked("/jobs", search, validateJobsSearch);
  const navigate = useNavigate({ from: "/jobs" });
  const [preferences, setPreferences] = usePreference<JobsPreferences>(TABLE, USUAL);
  const query = jobsQuery(search, preferences.pageSize);
  const { data, error, isPending, isPlaceholderData, refetch } = useQuery(query);
  useLiveRows(query.queryKey);
  useTitle("Jobs");
  useEffect(() => rememberJobs(search), [search]);

  const pages = useCursors(search, isPlaceholderData ? undefined : data?.next);
  const sort = wish.sort ?? NEWEST;
  const filtered = Boolean(search.q || search.status || search.unprotected || [...NAMES, ...TIMES].some((one) => search[one]));
  const rows = data?.items ?? [];
  const slotOf = useSlots(rows.map((one) => one.job_id));
  return (
    <Table
      variant="full-page"
      stickyHeader
      items={rows}
      trackBy={slotOf}
      loading={isPending}
      loadingText="Loading jobs"
      wrapLines={preferences.wrapLines || Boolean(search.unprotected)}
      contentDensity="compact"
      columnDefinitions={COLUMNS}
      columnDisplay={search.unprotected ? withProtection(preferences.contentDisplay) : preferences.contentDisplay}
      ariaLabels={{ tableLabel: "Jobs" }}
      sortingColumn={{ sortingField: sort.replace(/^-/, "") }}
      sortingDescending={sort.startsWith("-")}
      onSortingChange={({ detail }) => {
        const field = detail.sortingColumn.sortingField as SortKey;
        const next = `${detail.isDescending ? "-" : ""}${field}` as JobsSearch["sort"];
        void navigate({ search: (now) => ({ ...fromTheStart(now), sort: next === NEWEST ? undefined : next }) });
      }}
      empty={error && !data ? <Failure problem={error} onRetry={() => void refetch()} /> : <Nothing filtered={filtered} more={Boolean(data?.next)} />}
      header={
        <Header
          variant="awsui-h1-sticky"
          description="AWS Batch jobs that Perdure knows. A protection is a reclaim that the job survived."
          actions={
            <SpaceBetween direction="horizontal" size="xs">
              <Button iconName="refresh" ariaLabel="Load again" loading={isPlaceholderData} onClick={() => void refetch()} />
              <Button iconName="download" href={csv(search)} download="perdure-jobs.csv">
                CSV
              </Button>
            </SpaceBetween>
          }
        >
          Jobs
        </Header>
      }
      filter={<Filter search={wish} jobs={rows} found={filtered && data ? `${rows.length}${data.next ? "+" : ""} on this page` : ""} />}
      pagination={
        <Pagination
          currentPageIndex={search.page ?? 1}
          pagesCount={pages.known}
          openEnd={Boolean(data?.next)}
          onChange={({ detail }) => {
            // A cursor leads on in the list that is shown: not when another one was asked for meanwhile.
            if (isPlaceholderData || listOf(wish) !== listOf(search)) return;
            const cursor = pages.cursor(detail.currentPageIndex);
            const rest = fromTheStart(search);
            void navigate({ search: cursor ? { ...rest, page: detail.currentPageIndex, cursor } : rest });
          }}
        />
      }
      preferences={<Preferences value={preferences} onChange={setPreferences} />}
    />
  );
}

/** The first page of the same list. */
function fromTheStart({ page: _page, cursor: _cursor, ...rest }: JobsSearch): JobsSearch {
  return rest;
}

/** Whoever asks for jobs without protection wants to know why: beside the name. */
function withProtection(shown: JobsPreferences["contentDisplay"]): JobsPreferences["contentDisplay"] {
  const [name, ...others] = shown.filter((one) => one.id !== "protected");
  return [name!, { id: "protected", visible: true }, ...others];
}

/** A row that changed is drawn anew at once; its place and what needs a query follow. Others stay as they are. */
function useLiveRows(queryKey: ReturnType<typeof jobsQuery>["queryKey"]) {
  const client = useQueryClient();
  const anew = useGathered(() => void client.invalidateQueries({ queryKey: ["jobs"] }), GATHER_MS);
  useLive(
    (change: LiveChange) => {
      if (change.kind !== "job") return;
      const updatedAt = client.getQueryState(queryKey)?.dataUpdatedAt; // one row does not make the list younger
      client.setQueryData(
        queryKey,
        (page) => {
          const place = page?.items.findIndex((one) => one.job_id === change.job.job_id) ?? -1;
          if (!page || place < 0) return page;
          return { ...page, items: page.items.map((one, at) => (at === place ? { ...one, ...change.job } : one)) };
        },
        { updatedAt },
      );
      anew();
    },
    { onReset: anew },
  );
}

/** Two addresses with the same are pages of one list. */
const listOf = (search: JobsSearch): string => JSON.stringify({ ...queryOf(search), cursor: undefined });

/** The API's pages follow each other: it is remembered which cursor led to which page. `next`: of the list of `search`. */
function useCursors(search: JobsSearch, next: string | null | undefined) {
  const of = listOf(search);
  const known = useRef({ of, cursors: [undefined] as (string | undefined)[] });
  if (known.current.of !== of) known.current = { of, cursors: [undefined] };
  const page = search.page ?? 1;
  const { cursors } = known.current;
  cursors[page - 1] = search.cursor;
  if (next) cursors[page] = next;
  return { known: Math.max(page, next ? page + 1 : page), cursor: (index: number) => cursors[index - 1] };
}

function csv(search: JobsSearch): string {
  const { cursor: _cursor, ...query } = queryOf(search);
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query))
    for (const one of Array.isArray(value) ? value : value ? [value] : []) parameters.append(name, String(one));
  return `/api/v1/jobs.csv?${parameters}`;
}

function Nothing({ filtered, more }: { filtered: boolean; more: boolean }) {
  if (filtered && more) return <Box textAlign="center">No job on this page matches; the next page may have some.</Box>;
  return (
    <Box textAlign="center">
      {filtered ? "No job matches." : "No job yet. Each appears when its first container starts on a node with Perdure."}
    </Box>
  );
}

function Preferences({ value, onChange }: { value: JobsPreferences; onChange: (value: JobsPreferences) => void }) {
  return (
    <CollectionPreferences
      preferences={value}
      onConfirm={({ detail }) => onChange(detail as JobsPreferences)}
      title="Preferences"
      pageSizePreference={{ options: [10, 25, 50, 100, 200].map((size) => ({ value: size, label: `${size} jobs` })) }}
      wrapLinesPreference={{}}
      contentDisplayPreference={{
        options: COLUMNS.map((one) => ({ id: one.id!, label: String(one.header), alwaysVisible: one.id === "name" })),
      }}
    />
  );
}

export type { JobRow };
