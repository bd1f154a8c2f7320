import StatusIndicator from "@cloudscape-design/components/status-indicator";
import type { TableProps } from "@cloudscape-design/components/table";

import type { Schema } from "../../api/client";
import { JobStatus } from "../../components/JobStatus";
import { Prose } from "../../components/Prose";
import { RouterLink } from "../../components/RouterLink";
import { Time } from "../../components/Time";
import { bytes, count, duration } from "../../format";
import { USUAL_SIZE } from "./queries";

export type JobRow = Schema<"JobListed">;

/** Of these the server can sort: see SORTS. */
export const COLUMNS: TableProps.ColumnDefinition<JobRow>[] = [
  {
    id: "name",
    header: "Job",
    isRowHeader: true,
    sortingField: "name",
    minWidth: 140,
    maxWidth: 320,
    cell: (job) => (
      <span title={job.name}>
        <RouterLink to="/jobs/$jobId" params={{ jobId: job.job_id }}>
          {job.name || job.job_id}
        </RouterLink>
      </span>
    ),
  },
  { id: "job_id", header: "Job id", cell: (job) => <code>{job.job_id}</code>, minWidth: 200 },
  { id: "state", header: "Status", minWidth: 190, cell: (job) => <JobStatus state={job.state} /> },
  {
    id: "protected",
    header: "Protected",
    minWidth: 400,
    maxWidth: 400,
    cell: (job) =>
      job.unprotected ? (
        <span className="verdict" title={job.unprotected}>
          <StatusIndicator type="warning" iconAriaLabel="Warning" />
          <span>
            No: <Prose text={job.unprotected} />
          </span>
        </span>
      ) : (
        <StatusIndicator>Yes</StatusIndicator>
      ),
  },
  {
    id: "queue",
    header: "Job queue",
    minWidth: 110,
    cell: (job) =>
      job.queue ? (
        <RouterLink to="/jobs" search={{ queue: [job.queue] }}>
          {job.queue}
        </RouterLink>
      ) : (
        "–"
      ),
  },
  {
    id: "node",
    header: "Node",
    minWidth: 190,
    cell: (job) =>
      job.instance_id ? (
        <RouterLink to="/nodes/$instanceId" params={{ instanceId: job.instance_id }}>
          {job.instance_id}
        </RouterLink>
      ) : (
        "–"
      ),
  },
  { id: "zone", header: "Zone", minWidth: 105, cell: (job) => job.zone ?? "–" },
  { id: "attempts", header: "Attempts", minWidth: 100, cell: (job) => <span className="figure">{count(job.attempts)}</span> },
  {
    id: "protections",
    header: "Protections",
    sortingField: "protections",
    minWidth: 130,
    cell: (job) => <span className="figure">{count(job.protections)}</span>,
  },
  { id: "last_checkpoint", header: "Last checkpoint", minWidth: 145, cell: (job) => <Time at={job.last_checkpoint_at} brief /> },
  { id: "rootfs", header: "Largest root file system", minWidth: 200, cell: (job) => <span className="figure">{bytes(job.max_rootfs_bytes)}</span> },
  { id: "run_time", header: "Run time", minWidth: 100, cell: (job) => <span className="figure">{duration(job.run_seconds)}</span> },
  { id: "created", header: "Created", sortingField: "created_at", cell: (job) => <Time at={job.created_at} brief /> },
  { id: "finished", header: "Finished", sortingField: "finished_at", cell: (job) => <Time at={job.finished_at} brief /> },
  {
    id: "checkpoints",
    header: "Checkpoints",
    cell: (job) => (
      <span className="figure">
        {count(job.checkpoints_committed)}
        {job.checkpoint_failures > 0 && `, ${count(job.checkpoint_failures)} failed`}
      </span>
    ),
  },
  { id: "exit_code", header: "Exit code", cell: (job) => job.exit_code ?? "–" },
  { id: "resources", header: "Asked for", cell: (job) => `${job.vcpus ?? "–"} vCPU, ${job.memory_mib ? bytes(job.memory_mib * 2 ** 20) : "–"}` },
];

/** Where it is and how safe it is fits into a window of 1,280 pixels; the rest is a scroll away. */
const FIRST = ["name", "state", "node", "zone", "protections", "last_checkpoint", "run_time", "attempts", "queue", "rootfs", "created"];

export type JobsPreferences = {
  pageSize: number;
  wrapLines: boolean;
  contentDisplay: readonly { id: string; visible: boolean }[];
};

export const USUAL: JobsPreferences = {
  pageSize: USUAL_SIZE,
  wrapLines: false,
  contentDisplay: [...FIRST, ...COLUMNS.map((one) => one.id!).filter((id) => !FIRST.includes(id))].map((id) => ({
    id,
    visible: FIRST.includes(id),
  })),
};
