/** Where a job's checkpoints are kept, in words. */
import type { Schema } from "../../api/client";

type Settings = Schema<"JobConfigurationView">["settings"];
type Job = { volume_id: string | null; volume_zone: string | null };

/** Null: nowhere, or nobody knows. `settings`: what holds for the job, the volume's and the store's as it began with. */
export function keptIn(job: Job, settings: Settings): string | null {
  if (job.volume_id) return `the job's volume ${job.volume_id} in ${job.volume_zone}`;
  const of = (field: string) => settings.find((one) => one.field === field)?.value;
  if (of("job_volume.enabled") === true) return "the job's volume";
  if (of("store.kind") === "directory") return `the shared directory ${String(of("store.directory"))}`;
  if (of("store.kind") === "s3") return `the bucket s3://${String(of("store.bucket"))}/${String(of("store.prefix"))}`;
  return null;
}
