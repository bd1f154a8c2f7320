import Box from "@cloudscape-design/components/box";
import Header from "@cloudscape-design/components/header";
import Link from "@cloudscape-design/components/link";
import Table from "@cloudscape-design/components/table";

import type { Schema } from "../../api/client";
import { RouterLink } from "../../components/RouterLink";
import { Time } from "../../components/Time";
import type { Job } from ".";

type Attempt = Schema<"AttemptView">;

/** The job's containers, newest first, and where the output of each is. */
export function Attempts({ job }: { job: Job }) {
  return (
    <Table<Attempt>
      items={[...job.attempts].reverse()}
      trackBy="epoch"
      contentDensity="compact"
      wrapLines
      ariaLabels={{ tableLabel: "Attempts of the job" }}
      header={
        <Header description="One line for each container. A container that dies while it starts does not count: the next one repeats its number.">
          Attempts
        </Header>
      }
      empty={<Box textAlign="center">No container has come yet.</Box>}
      columnDefinitions={[
        { id: "attempt", header: "Attempt", isRowHeader: true, cell: (one) => one.attempt },
        {
          id: "node",
          header: "Node",
          minWidth: 190,
          cell: (one) => (
            <RouterLink to="/nodes/$instanceId" params={{ instanceId: one.instance_id }}>
              {one.instance_id}
            </RouterLink>
          ),
        },
        { id: "zone", header: "Zone", minWidth: 105, cell: (one) => one.zone },
        { id: "came", header: "Came", cell: (one) => <Time at={one.accepted_at} /> },
        {
          id: "began",
          header: "Began",
          cell: (one) =>
            one.restored_from != null
              ? `from checkpoint ${one.restored_from}`
              : one.started_at
                ? "clean"
                : one.ended_at
                  ? "never"
                  : "not yet",
        },
        { id: "ended", header: "Left", cell: (one) => <Time at={one.ended_at} missing="runs" /> },
        { id: "why", header: "Why", cell: (one) => one.end ?? "–" },
        { id: "log", header: "Its output", minWidth: 160, cell: (one) => <Stream of={one} /> },
      ]}
    />
  );
}

function Stream({ of: { attempt, log_stream: name, log_url: address } }: { of: Attempt }) {
  if (!name) return <>not known</>;
  if (!address) return <Box variant="code">{name}</Box>;
  return (
    <Link external href={address} externalIconAriaLabel="opens in a new tab" ariaLabel={`Log stream of attempt ${attempt}`}>
      Log stream
    </Link>
  );
}
