import StatusIndicator, { type StatusIndicatorProps } from "@cloudscape-design/components/status-indicator";

import type { Schema } from "../api/client";

export type JobState = Schema<"JobState">;

const KINDS: Record<JobState, StatusIndicatorProps.Type> = {
  Creating: "pending",
  Created: "pending",
  "Volume Unready": "pending",
  Running: "in-progress",
  Checkpointing: "loading",
  "Checkpoint Succeeded": "in-progress",
  "Checkpoint Failed": "warning",
  Restoring: "loading",
  "Restore Volume Unready": "pending",
  "Restore Succeeded": "in-progress",
  "Restore Failed": "warning",
  Stopped: "stopped",
  Succeeded: "success",
  Failed: "error",
};

export const FINISHED = new Set<JobState>(["Stopped", "Succeeded", "Failed"]);
export const STATES = Object.keys(KINDS) as JobState[];

/** A job's state in the colours of the AWS console. */
export function JobStatus({ state }: { state: JobState }) {
  return <StatusIndicator type={KINDS[state]}>{state}</StatusIndicator>;
}
