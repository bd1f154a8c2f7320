import Box from "@cloudscape-design/components/box";
import Container from "@cloudscape-design/components/container";
import Header from "@cloudscape-design/components/header";
import SpaceBetween from "@cloudscape-design/components/space-between";
import StatusIndicator from "@cloudscape-design/components/status-indicator";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import Button from "@cloudscape-design/components/button";

import { Failure } from "../../components/Failure";
import { Prose } from "../../components/Prose";
import { RouterLink } from "../../components/RouterLink";
import { Time } from "../../components/Time";
import { count } from "../../format";
import { useNow } from "../../hooks";
import { alertsQuery } from "./queries";

const FEW = 4;

/** What needs a person now: the alerts of unfinished jobs, the worst first. */
export function Attention() {
  const { data, error, refetch } = useQuery(alertsQuery);
  const [all, setAll] = useState(false);
  const now = useNow(10_000);
  if (error && !data) return <Failure problem={error} onRetry={() => void refetch()} />;
  if (!data) return null;
  if (data.items.length === 0) {
    const jobs = data.jobs === 1 ? "The unfinished job is" : `All ${count(data.jobs)} unfinished jobs are`;
    return (
      <StatusIndicator>
        Nothing needs you now.{data.jobs > 0 ? ` ${data.next ? `The newest ${count(data.jobs)} unfinished jobs are` : jobs} well.` : ""}
      </StatusIndicator>
    );
  }
  const shown = all ? data.items : data.items.slice(0, FEW);
  return (
    <Container header={<Header variant="h2" counter={`(${count(data.items.length)}${data.next ? "+" : ""})`}>Needs you now</Header>}>
      <SpaceBetween size="xs">
        {shown.map((one) => (
          <div key={one.job_id + one.code} className="attention">
            <StatusIndicator type={one.level === "error" ? "error" : "warning"}>
              <RouterLink to="/jobs/$jobId" params={{ jobId: one.job_id }}>
                {one.name || one.job_id}
              </RouterLink>
            </StatusIndicator>
            <span>
              <Prose text={one.message} />
            </span>
            <Box color="text-body-secondary">
              <Time at={one.since} relative={new Date(now)} missing="" />
            </Box>
          </div>
        ))}
        {data.items.length > FEW && (
          <Button variant="inline-link" onClick={() => setAll(!all)}>
            {all ? "Show fewer" : `Show all ${count(data.items.length)}`}
          </Button>
        )}
      </SpaceBetween>
    </Container>
  );
}
