import Alert from "@cloudscape-design/components/alert";
import SpaceBetween from "@cloudscape-design/components/space-between";

import { Prose } from "../../components/Prose";
import { Time } from "../../components/Time";
import type { Job } from ".";

/** What is wrong with the job or soon will be; and, once it has failed, why. */
export function JobAlerts({ job }: { job: Job }) {
  const why = job.state === "Failed" ? failure(job) : null;
  const { preflight } = job;
  const changes = preflight && preflight.level !== "info" ? preflight : null;
  if (job.alerts.length === 0 && !why && !changes) return null;
  return (
    <SpaceBetween size="xs">
      {why && (
        <Alert type="error" header="Why it failed">
          {why.map((line) => (
            <div key={line.sequence}>
              <Time at={line.at} /> <Prose text={line.message} />
            </div>
          ))}
          <div>
            <Prose text={hint(job)} />
          </div>
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

/** The lines of the timeline that speak of the end: its last troubles, and the end itself. */
export function failure(job: Pick<Job, "events">): Job["events"] {
  const troubles = job.events.filter((one) => one.level !== "info" && one.kind !== "notice");
  const end = job.events.filter((one) => one.kind === "finished" || one.kind === "exited");
  return [...new Set([...troubles.slice(-3), ...end.slice(-1)])].sort((a, b) => a.sequence - b.sequence);
}

/** What to do about an exit code that has a usual meaning. */
export function hint(job: Pick<Job, "exit_code" | "checkpoints">): string {
  if (job.checkpoints.length > 0) return "A checkpoint is kept: `Resume` goes on from there in a new job.";
  switch (job.exit_code) {
    case 137:
      return "Exit code 137: the container was killed, most often because its memory limit was too low.";
    case 139:
      return "Exit code 139: a process of the job crashed (segmentation fault). The job's own log says more.";
    case 127:
      return "Exit code 127: the job's command was not found in its image.";
    case 126:
      return "Exit code 126: the job's command could not be executed.";
    case null:
      return "No exit code is known. The events below and the log bundle say what the node saw.";
    default:
      return "The exit code is the job's own. Its log in CloudWatch says why; the log bundle has what Perdure saw.";
  }
}
