import Box from "@cloudscape-design/components/box";
import Header from "@cloudscape-design/components/header";
import Table from "@cloudscape-design/components/table";

import type { Schema } from "../../api/client";
import { JobStatus } from "../../components/JobStatus";
import { RouterLink } from "../../components/RouterLink";
import { Time } from "../../components/Time";

type Run = Schema<"NodeRunView">;
const MOST = 200;

/** The containers that ran on the node, newest first. */
export function Runs({ runs }: { runs: Run[] }) {
  return (
    <Table<Run>
      items={runs}
      trackBy={(run) => `${run.job_id} ${run.epoch}`}
      ariaLabels={{ tableLabel: "Containers on this node" }}
      header={
        <Header
          variant="h2"
          counter={`(${runs.length})`}
          description={runs.length >= MOST ? `The newest ${MOST}.` : undefined}
        >
          Containers
        </Header>
      }
      empty={<Box textAlign="center">No job has run here.</Box>}
      columnDefinitions={[
        {
          id: "job",
          header: "Job",
          isRowHeader: true,
          minWidth: 140,
          maxWidth: 320,
          cell: (run) => (
            <RouterLink to="/jobs/$jobId" params={{ jobId: run.job_id }}>
              {run.name || run.job_id}
            </RouterLink>
          ),
        },
        { id: "queue", header: "Queue", minWidth: 80, cell: (run) => run.queue },
        { id: "state", header: "Job's state now", minWidth: 130, cell: (run) => <JobStatus state={run.state} /> },
        { id: "attempt", header: "Attempt", minWidth: 80, cell: (run) => run.attempt },
        { id: "accepted", header: "Came", minWidth: 170, cell: (run) => <Time at={run.accepted_at} /> },
        {
          id: "from",
          header: "Began",
          minWidth: 140,
          cell: (run) => (run.restored_from == null ? "clean" : `from checkpoint ${run.restored_from}`),
        },
        { id: "ended", header: "Left", minWidth: 170, cell: (run) => <Time at={run.ended_at} missing="runs" /> },
        { id: "end", header: "Why", minWidth: 100, cell: (run) => run.end ?? "–" },
      ]}
    />
  );
}
