import { useCollection } from "@cloudscape-design/collection-hooks";
import Box from "@cloudscape-design/components/box";
import Header from "@cloudscape-design/components/header";
import Pagination from "@cloudscape-design/components/pagination";
import Table from "@cloudscape-design/components/table";
import { useQuery } from "@tanstack/react-query";

import { Failure } from "../../components/Failure";
import { Time } from "../../components/Time";
import { bytes, count, duration } from "../../format";
import type { Job } from ".";
import { keptIn } from "./kept";
import { checkpointsQuery } from "./queries";
import { Restorable } from "./Restorable";

export default function Checkpoints({ job }: { job: Job }) {
  const { data, error, isPending, refetch } = useQuery(checkpointsQuery(job.job_id));
  const kept = keptIn(job);
  const { items, collectionProps, paginationProps } = useCollection(data ?? [], {
    filtering: { empty: <Box textAlign="center">No checkpoint has been committed yet.</Box> },
    pagination: { pageSize: 50 },
    sorting: { defaultState: { sortingColumn: { sortingField: "number" }, isDescending: true } },
  });
  if (error && !data) return <Failure problem={error} onRetry={() => void refetch()} />;
  return (
    <Table
      {...collectionProps}
      items={items}
      trackBy="number"
      loading={isPending}
      loadingText="Loading checkpoints"
      contentDensity="compact"
      ariaLabels={{ tableLabel: "Checkpoints of the job" }}
      header={
        <Header
          counter={data && `(${count(data.length)})`}
          description={
            "Each is complete; what did not change is shared with older ones. Older ones make room for newer ones." +
            (kept ? ` Kept in ${kept}.` : "")
          }
        >
          Checkpoints
        </Header>
      }
      pagination={<Pagination {...paginationProps} />}
      columnDefinitions={[
        { id: "number", header: "Number", cell: (one) => one.number, sortingField: "number", isRowHeader: true },
        {
          id: "offered",
          header: "Restorable",
          cell: (one) => <Restorable checkpoint={one} job={job} />,
        },
        { id: "kind", header: "Kind", cell: (one) => one.kind, sortingField: "kind" },
        { id: "frozen", header: "Brings back", cell: (one) => <Time at={one.frozen_at} />, sortingField: "frozen_at" },
        { id: "holds", header: "Holds", cell: (one) => bytes(one.holds_bytes), sortingField: "holds_bytes" },
        { id: "wrote", header: "Wrote", cell: (one) => bytes(one.written_bytes), sortingField: "written_bytes" },
        { id: "shares", header: "Shares", cell: (one) => bytes(one.shares_bytes), sortingField: "shares_bytes" },
        { id: "freeze", header: "Job stood still", cell: (one) => duration(one.freeze_seconds), sortingField: "freeze_seconds" },
        { id: "dump", header: "Memory written in", cell: (one) => duration(one.dump_seconds), sortingField: "dump_seconds" },
        { id: "safe", header: "Then made safe in", cell: (one) => duration(one.upload_seconds), sortingField: "upload_seconds" },
      ]}
    />
  );
}
