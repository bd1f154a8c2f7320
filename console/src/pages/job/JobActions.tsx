/** What can be done with a job. A viewer sees only what changes nothing. */
import Alert from "@cloudscape-design/components/alert";
import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useRouter } from "@tanstack/react-router";
import { useState } from "react";

import { api, wanted } from "../../api/client";
import { useIsAdmin } from "../../api/me";
import { Confirm } from "../../components/Confirm";
import { FINISHED } from "../../components/JobStatus";
import { useNotices } from "../../components/notices";
import { duration } from "../../format";
import type { Job } from ".";
import { workflowQuery } from "./queries";

export function JobActions({ job }: { job: Job }) {
  const [asking, setAsking] = useState<"checkpoint" | "resume" | null>(null);
  const isAdmin = useIsAdmin();
  const finished = FINISHED.has(job.state);
  const { data: workflow } = useQuery(workflowQuery(job.job_id));
  const close = () => setAsking(null);
  return (
    <SpaceBetween direction="horizontal" size="xs">
      {workflow?.url && (
        <Button href={workflow.url} target="_blank" iconName="external" iconAlign="right">
          Temporal workflow
        </Button>
      )}
      <Button
        iconName="download"
        href={`/api/v1/jobs/${encodeURIComponent(job.job_id)}/logs`}
        download={`perdure-job-${job.job_id}-logs.zip`}
      >
        Log bundle
      </Button>
      {isAdmin && job.kept?.resumed_as === null && (
        <Button variant="primary" onClick={() => setAsking("resume")}>
          Resume
        </Button>
      )}
      {isAdmin && !finished && (
        <Button variant="primary" onClick={() => setAsking("checkpoint")}>
          Checkpoint now
        </Button>
      )}
      {asking === "checkpoint" && <TakeCheckpoint job={job} onClose={close} />}
      {asking === "resume" && <Resume job={job} onClose={close} />}
    </SpaceBetween>
  );
}

function TakeCheckpoint({ job, onClose }: { job: Job; onClose: () => void }) {
  const client = useQueryClient();
  const { say } = useNotices();
  const take = useMutation({
    mutationFn: () =>
      wanted(api.POST("/api/v1/jobs/{job_id}/checkpoints", { params: { path: { job_id: job.job_id } } })),
    onSuccess: (taken) => {
      void client.invalidateQueries({ queryKey: ["job", job.job_id] });
      const stood = taken.checkpoint.freeze_seconds;
      const still = stood == null ? "" : ` The job stood still for ${duration(stood)}.`;
      say({ type: "success", content: `Checkpoint ${taken.number} of ${job.name} is committed.${still}` });
      onClose();
    },
  });
  const newest = job.checkpoints.at(-1);
  return (
    <Confirm
      title="Take a checkpoint now?"
      deed="Checkpoint now"
      busy={take.isPending}
      problem={take.error}
      onConfirm={() => take.mutate()}
      onClose={onClose}
    >
      {newest?.freeze_seconds != null
        ? `The job stands still meanwhile: ${duration(newest.freeze_seconds)} at checkpoint ${newest.number}. It runs on afterwards.`
        : "The job stands still while its memory is written. It runs on afterwards."}
    </Confirm>
  );
}

function Resume({ job, onClose }: { job: Job; onClose: () => void }) {
  const router = useRouter();
  const { say } = useNotices();
  const [key] = useState(() => crypto.randomUUID());
  const resume = useMutation({
    mutationFn: () =>
      wanted(
        api.POST("/api/v1/jobs/{job_id}/resume", {
          params: { path: { job_id: job.job_id }, header: { "idempotency-key": key } },
        }),
      ),
    onSuccess: (resumed) => {
      say({ type: "success", header: `${resumed.job_name} was submitted`, content: resumed.remarks.join(" ") });
      onClose();
      void router.navigate({ to: "/jobs/$jobId", params: { jobId: resumed.job_id } });
    },
  });
  return (
    <Confirm
      title="Go on from the kept checkpoint?"
      deed="Submit a new job"
      busy={resume.isPending}
      problem={resume.error}
      onConfirm={() => resume.mutate()}
      onClose={onClose}
    >
      <SpaceBetween size="s">
        <Box>
          A new Batch job is submitted to queue <b>{job.queue}</b>. It has the definition, command, variables and retry
          strategy of this one, and begins at checkpoint {job.kept?.checkpoint}.
        </Box>
        <Alert type="info">
          Workflow managers such as Nextflow wait for the old job id and will not follow the new one.
        </Alert>
      </SpaceBetween>
    </Confirm>
  );
}
