import Alert from "@cloudscape-design/components/alert";
import SpaceBetween from "@cloudscape-design/components/space-between";

import { Prose } from "../../components/Prose";
import { Time } from "../../components/Time";
import type { Job } from ".";
import { Kept } from "./Kept";
import { failure, hint, startedClean } from "./why";

/** What is wrong with the job or soon will be; and, once it has failed, why. */
export function JobAlerts({ job }: { job: Job }) {
  const why = job.state === "Failed" ? failure(job) : null;
  const anew = why ? [] : startedClean(job);
  const { preflight } = job;
  const changes = preflight && preflight.level !== "info" ? preflight : null;
  if (job.alerts.length === 0 && !why && anew.length === 0 && !changes && !job.kept) return null;
  return (
    <SpaceBetween size="xs">
      {why && (
        <Alert type="error" header="Why it failed">
          <Lines of={why} />
          <div>
            <Prose text={hint(job)} />
          </div>
        </Alert>
      )}
      {job.kept && <Kept kept={job.kept} />}
      {anew.length > 0 && (
        <Alert type="warning" header="Why it started clean">
          <Lines of={anew} />
          <div>It does all its work again and takes new checkpoints. The log bundle says what the node saw.</div>
        </Alert>
      )}
      {changes && (
        <Alert type="warning" header="Preflight: what stands in the way of its checkpoints, and what helps">
          <Prose text={changes.message.replace(/^Preflight: [^.]*\. ?/, "")} />
        </Alert>
      )}
      {job.alerts.map((one) => (
        <Alert key={one.code} type={one.level === "error" ? "error" : "warning"}>
          <Prose text={one.message} />{" "}
          {one.since && (
            <>
              (since <Time at={one.since} />)
            </>
          )}
        </Alert>
      ))}
    </SpaceBetween>
  );
}

function Lines({ of }: { of: Job["events"] }) {
  return of.map((line) => (
    <div key={line.sequence}>
      <Time at={line.at} /> <Prose text={line.message} />
    </div>
  ));
}
