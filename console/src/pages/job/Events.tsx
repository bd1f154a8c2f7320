import { useCollection } from "@cloudscape-design/collection-hooks";
import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import Header from "@cloudscape-design/components/header";
import Pagination from "@cloudscape-design/components/pagination";
import StatusIndicator, { type StatusIndicatorProps } from "@cloudscape-design/components/status-indicator";
import Table from "@cloudscape-design/components/table";
import TextFilter from "@cloudscape-design/components/text-filter";
import { useQuery } from "@tanstack/react-query";
import { useMemo, useRef, useState } from "react";

import { Prose } from "../../components/Prose";
import { Time } from "../../components/Time";
import { count } from "../../format";
import type { Job } from ".";
import { earlierQuery } from "./queries";

type Event = Job["events"][number];
const LEVELS: Record<string, StatusIndicatorProps.Type> = { info: "info", warning: "warning", error: "error" };

/** What happened, newest first. Lines that were seen once stay, while the job brings its newest alone. */
export function Events({ job }: { job: Job }) {
  const first = job.events[0]?.sequence ?? 1;
  // From where on the job's own lines were missing when somebody asked for them; newer ones come with the job.
  const [before, setBefore] = useState(0);
  const { data: earlier = [], isFetching } = useQuery({ ...earlierQuery(job.job_id, before), enabled: before > 1 });
  const known = useRef(new Map<number, Event>());
  const all = useMemo(() => {
    for (const one of [...earlier, ...job.events]) known.current.set(one.sequence, one);
    return [...known.current.values()].sort((one, other) => one.sequence - other.sequence);
  }, [earlier, job.events]);
  const missing = (all[0]?.sequence ?? 1) - 1;
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
      header={
        <Header
          counter={`(${count(all.length)})`}
          actions={
            missing > 0 && (
              <Button loading={isFetching} onClick={() => setBefore(first)}>
                Load the {count(missing)} before
              </Button>
            )
          }
        >
          Events
        </Header>
      }
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
          width: 150,
        },
        { id: "message", header: "In words", cell: (one) => <Prose text={one.message} />, isRowHeader: true },
      ]}
    />
  );
}
