import StatusIndicator from "@cloudscape-design/components/status-indicator";

import type { Schema } from "../../api/client";
import type { Job } from ".";

type Props = {
  checkpoint: Pick<Schema<"PastCheckpointView">, "number" | "epoch" | "offered">;
  job: Pick<Job, "quarantined" | "rehearsal">;
};

/** Can a restore take it? A rehearsal is the only proof that it comes back. */
export function Restorable({ checkpoint: { number, epoch, offered }, job: { quarantined, rehearsal } }: Props) {
  if (quarantined.includes(number)) return <StatusIndicator type="error">Quarantined</StatusIndicator>;
  if (!offered) return <StatusIndicator type="stopped">Dropped</StatusIndicator>;
  const rehearsed = rehearsal?.number === number && rehearsal.epoch === epoch ? rehearsal.verdict : null;
  if (rehearsed === "failed") return <StatusIndicator type="warning">Its rehearsal failed</StatusIndicator>;
  return <StatusIndicator>{rehearsed === "passed" ? "Yes, rehearsed" : "Yes"}</StatusIndicator>;
}
