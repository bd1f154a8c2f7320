import Box from "@cloudscape-design/components/box";
import Container from "@cloudscape-design/components/container";
import Header from "@cloudscape-design/components/header";
import StatusIndicator, { type StatusIndicatorProps } from "@cloudscape-design/components/status-indicator";
import { useQuery } from "@tanstack/react-query";

import { Prose } from "../../components/Prose";
import { RouterLink } from "../../components/RouterLink";
import { Time } from "../../components/Time";
import { useNow } from "../../hooks";
import { newestQuery } from "./queries";

const LEVELS: Record<string, StatusIndicatorProps.Type> = { info: "info", warning: "warning", error: "error" };

/** The newest lines of all jobs' timelines, as they come. */
export function Newest() {
  const { data } = useQuery(newestQuery);
  const now = new Date(useNow(5000));
  return (
    <Container fitHeight header={<Header variant="h2">What happened last</Header>}>
      <ul className="plain-list newest">
        {data?.items.map((one) => (
          <li key={`${one.job_id}-${one.sequence}`}>
            <StatusIndicator type={LEVELS[one.level] ?? "info"}>
              <RouterLink to="/jobs/$jobId" params={{ jobId: one.job_id }}>
                {one.name || one.job_id}
              </RouterLink>
            </StatusIndicator>
            <span>
              <Prose text={one.message} />
            </span>
            <Box color="text-body-secondary" variant="small">
              <Time at={one.at} relative={now} />
            </Box>
          </li>
        ))}
      </ul>
    </Container>
  );
}
