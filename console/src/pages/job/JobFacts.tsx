import Box from "@cloudscape-design/components/box";
import Container from "@cloudscape-design/components/container";
import CopyToClipboard from "@cloudscape-design/components/copy-to-clipboard";
import Header from "@cloudscape-design/components/header";
import KeyValuePairs from "@cloudscape-design/components/key-value-pairs";
import StatusIndicator from "@cloudscape-design/components/status-indicator";
import { Fragment } from "react";

import { RouterLink } from "../../components/RouterLink";
import { Time } from "../../components/Time";
import { bytes, count, duration } from "../../format";
import type { Job } from ".";

/** `Preflight: protectable with changes. …` → `Protectable with changes`. */
function verdictOf(message: string): string {
  const verdict = message.replace(/^Preflight: /, "").split(".")[0] ?? "";
  return verdict.charAt(0).toUpperCase() + verdict.slice(1);
}

/** Browsers break no line between a hyphen and a digit, so they would break a long id anywhere. */
function BrokenAtHyphens({ text }: { text: string }) {
  return text.split(/(?<=-)/).map((part, place) => (
    <Fragment key={place}>
      <wbr />
      <span className="together">{part}</span>
    </Fragment>
  ));
}

/** What the job is, in figures. */
export function JobFacts({ job }: { job: Job }) {
  const last = job.attempts.at(-1);
  const { preflight } = job;
  return (
    <Container header={<Header variant="h2">Details</Header>}>
      <KeyValuePairs
        columns={4}
        items={[
          {
            label: "Job id",
            value: (
              <CopyToClipboard
                variant="inline"
                textToCopy={job.job_id}
                textToDisplay={<BrokenAtHyphens text={job.job_id} />}
                copyButtonAriaLabel="Copy the job id"
                copySuccessText="Copied"
                copyErrorText="Not copied"
              />
            ),
          },
          {
            label: "Job queue",
            value: job.queue ? (
              <RouterLink to="/jobs" search={{ queue: [job.queue] }}>
                {job.queue}
              </RouterLink>
            ) : (
              "–"
            ),
          },
          { label: "In AWS Batch", value: `${job.batch_status ?? "–"}${job.exit_code == null ? "" : `, exit code ${job.exit_code}`}` },
          {
            label: "Instance",
            value: last ? (
              <>
                <RouterLink to="/nodes/$instanceId" params={{ instanceId: last.instance_id }}>
                  {last.instance_id}
                </RouterLink>{" "}
                <span className="together">in {last.zone}</span>
              </>
            ) : (
              "–"
            ),
          },
          { label: "Created", value: <Time at={job.created_at} /> },
          { label: "Finished", value: <Time at={job.finished_at} /> },
          { label: "Run time of its processes", value: duration(job.run_seconds) },
          { label: "Run time as AWS Batch counts it", value: duration(job.batch_run_seconds) },
          { label: "Attempts", value: `${last?.attempt ?? 0} of ${job.retry.attempts}` },
          { label: "Reclaims survived", value: count(job.protections) },
          {
            label: "Checkpoints",
            value: `${count(job.checkpoints_committed)} committed, ${count(job.checkpoint_failures)} failed`,
          },
          {
            label: "Rehearsals of checkpoints",
            value: job.rehearsals ? `${count(job.rehearsals)}, ${count(job.rehearsal_failures)} failed` : "None yet",
          },
          {
            label: "Stood still for checkpoints",
            value: duration(job.frozen_seconds),
          },
          { label: "Asked for", value: `${job.vcpus ?? "–"} vCPU, ${job.memory_mib ? bytes(job.memory_mib * 2 ** 20) : "–"}` },
          { label: "Largest root file system", value: bytes(job.max_rootfs_bytes) },
          {
            label: "Job volume",
            value: job.volume_id ? `${job.volume_id} in ${job.volume_zone}` : "–",
          },
          {
            label: "AWS Batch's time-out",
            value:
              job.timeout_seconds == null
                ? "None"
                : job.timeout_left_seconds == null
                  ? duration(job.timeout_seconds)
                  : `${duration(job.timeout_seconds)}, ${duration(job.timeout_left_seconds)} left`,
          },
          {
            label: "Preflight",
            value: preflight ? (
              <span className="verdict">
                <StatusIndicator type={preflight.level === "info" ? "success" : "warning"} iconAriaLabel={preflight.level} />
                {preflight.level === "info" ? verdictOf(preflight.message) : `${verdictOf(preflight.message)}; see above`}
              </span>
            ) : (
              "Not looked at yet"
            ),
          },
          {
            label: "Mounts that are not captured",
            value: job.shared_mounts.length ? (
              <>
                {job.shared_mounts.map((one) => (
                  <Box key={one} variant="code" display="block">
                    {one}
                  </Box>
                ))}
                <Box variant="small">What is written there is not rolled back at a restore.</Box>
              </>
            ) : (
              "None"
            ),
          },
        ]}
      />
    </Container>
  );
}
