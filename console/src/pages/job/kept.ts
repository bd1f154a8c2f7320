/** Where a job's checkpoints are kept, in words. */
import type { Job } from ".";

type Place = Pick<Job, "volume_id" | "volume_zone" | "volumes" | "stored">;

/** Null: nowhere, or nobody knows. */
export function keptIn({ volume_id, volume_zone, volumes, stored }: Place): string | null {
  if (volume_id) return `the job's volume ${volume_id} in ${volume_zone}`;
  if (stored?.store.kind === "directory") return `the shared directory ${stored.store.directory}`;
  if (stored?.store.kind === "s3") return `the bucket s3://${stored.store.bucket}/${stored.store.prefix}`;
  return volumes.length > 0 ? "the job's volume, which is gone" : null;
}
