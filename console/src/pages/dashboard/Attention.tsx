import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import Container from "@cloudscape-design/components/container";
import Header from "@cloudscape-design/components/header";
import SpaceBetween from "@cloudscape-design/components/space-between";
import StatusIndicator, { type StatusIndicatorProps } from "@cloudscape-design/components/status-indicator";
import { useQuery } from "@tanstack/react-query";
import { useState, type ReactNode } from "react";

import type { Schema } from "../../api/client";
import { Failure } from "../../components/Failure";
import { KeptUntil } from "../../components/KeptUntil";
import { Prose } from "../../components/Prose";
import { RouterLink } from "../../components/RouterLink";
import { Time } from "../../components/Time";
import { count } from "../../format";
import { useNow } from "../../hooks";
import { alertsQuery } from "./queries";

const FEW = 4;

type Resumable = Schema<"ResumableView">;

/**
 * What needs a person now: the alerts of unfinished jobs, the worst first, and checkpoints that are deleted soon. Below,
 * in a quiet form, the other jobs that somebody could resume.
 */
export function Attention() {
  const { data, error, refetch } = useQuery(alertsQuery);
  const now = useNow(10_000);
  if (error && !data) return <Failure problem={error} onRetry={() => void refetch()} />;
  if (!data) return null;
  const soon = data.resumable.filter((one) => one.ends_soon);
  const later = data.resumable.filter((one) => !one.ends_soon);
  const needs = [
    ...data.items.map((one) => (
      <Line
        key={one.job_id + one.code}
        job={one}
        type={one.level === "error" ? "error" : "warning"}
        message={one.message}
        when={<Time at={one.since} relative={new Date(now)} missing="" />}
      />
    )),
    ...soon.map((one) => <WaitingLine key={one.job_id} one={one} type="warning" now={now} />),
  ];
  return (
    <SpaceBetween size="l">
      {needs.length > 0 ? (
        <Lines title="Needs you now" more={data.next !== null}>
          {needs}
        </Lines>
      ) : (
        <StatusIndicator>Nothing needs you now.{well(data)}</StatusIndicator>
      )}
      {later.length > 0 && (
        <Lines
          title="Can be resumed"
          description="These jobs ended with a checkpoint kept, and nobody has resumed them yet."
        >
          {later.map((one) => (
            <WaitingLine key={one.job_id} one={one} type="pending" now={now} />
          ))}
        </Lines>
      )}
    </SpaceBetween>
  );
}

function well({ jobs, next }: Schema<"Alerts">): string {
  if (jobs === 0) return "";
  if (next) return ` The newest ${count(jobs)} unfinished jobs are well.`;
  return jobs === 1 ? " The unfinished job is well." : ` All ${count(jobs)} unfinished jobs are well.`;
}

type LinesProps = { title: string; description?: string; more?: boolean; children: ReactNode[] };

/** The first few lines; the others on request. `more`: there are more than are known here. */
function Lines({ title, description, more = false, children }: LinesProps) {
  const [all, setAll] = useState(false);
  return (
    <Container
      header={
        <Header variant="h2" counter={`(${count(children.length)}${more ? "+" : ""})`} description={description}>
          {title}
        </Header>
      }
    >
      <SpaceBetween size="xs">
        {all ? children : children.slice(0, FEW)}
        {children.length > FEW && (
          <Button variant="inline-link" onClick={() => setAll(!all)}>
            {all ? "Show fewer" : `Show all ${count(children.length)}`}
          </Button>
        )}
      </SpaceBetween>
    </Container>
  );
}

function WaitingLine({ one, type, now }: { one: Resumable; type: StatusIndicatorProps.Type; now: number }) {
  return <Line job={one} type={type} message={one.standing} when={<KeptUntil until={one.until} now={now} />} />;
}

type LineProps = {
  job: { job_id: string; name: string };
  type: StatusIndicatorProps.Type;
  message: string;
  when: ReactNode;
};

function Line({ job, type, message, when }: LineProps) {
  return (
    <div className="attention">
      <StatusIndicator type={type}>
        <RouterLink to="/jobs/$jobId" params={{ jobId: job.job_id }}>
          {job.name || job.job_id}
        </RouterLink>
      </StatusIndicator>
      <span>
        <Prose text={message} />
      </span>
      <Box color="text-body-secondary">{when}</Box>
    </div>
  );
}
