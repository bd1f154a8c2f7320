import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import Header from "@cloudscape-design/components/header";
import Table from "@cloudscape-design/components/table";

import { useSearch } from "@tanstack/react-router";

import type { Schema } from "../../api/client";
import { Failure } from "../../components/Failure";
import { RouterLink } from "../../components/RouterLink";
import { amount, count } from "../../format";
import { bounds } from "./search";

type Queue = Schema<"QueueView">;

/** Each job queue with what it submitted and saved; its name leads to its jobs. */
export function Queues({ queues, problem }: { queues: Queue[] | undefined; problem: unknown }) {
  const search = useSearch({ from: "/shell/" });
  if (problem != null && !queues) return <Failure problem={problem} />;
  const metric = (one: Queue, name: string, unit: string) => (
    <span className="figure">{amount(one.metrics[name]?.value, unit)}</span>
  );
  return (
    <Table
      items={queues ?? []}
      loading={!queues}
      loadingText="Loading queues"
      trackBy="queue"
      contentDensity="compact"
      ariaLabels={{ tableLabel: "Job queues" }}
      empty={<Box textAlign="center">No job in this span of time.</Box>}
      header={
        <Header
          variant="h2"
          counter={queues && `(${count(queues.length)})`}
          actions={
            <Button href={`/api/v1/report.csv?${new URLSearchParams(bounds(search, Date.now()))}`} download iconName="download">
              CSV
            </Button>
          }
        >
          Job queues
        </Header>
      }
      columnDefinitions={[
        {
          id: "queue",
          header: "Queue",
          isRowHeader: true,
          cell: (one) =>
            one.queue ? (
              <RouterLink to="/jobs" search={{ queue: [one.queue] }}>
                {one.queue}
              </RouterLink>
            ) : (
              "(not known yet)"
            ),
        },
        { id: "jobs", header: "Jobs submitted", cell: (one) => <span className="figure">{count(one.jobs_submitted)}</span> },
        { id: "running", header: "Not finished", cell: (one) => <span className="figure">{count(one.jobs_running)}</span> },
        { id: "protections", header: "Protections", cell: (one) => metric(one, "spot_protections", "count") },
        { id: "cost", header: "Cost", cell: (one) => metric(one, "total_cost", "USD") },
        { id: "saved", header: "Spot savings", cell: (one) => metric(one, "spot_savings_cost", "USD") },
      ]}
    />
  );
}
