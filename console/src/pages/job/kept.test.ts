import { describe, expect, it } from "vitest";

import { keptIn } from "./kept";

const none: Parameters<typeof keptIn>[0] = { volume_id: null, volume_zone: null, volumes: [], stored: null };
const volume = { volume_id: "vol-1", zone: "us-east-1a", volume_type: "gp3", size_gib: 8, created_at: "2026-03-01T00:00:00Z" };
const stored = (store: object) => ({ ...none, stored: { job_id: "job-1", store } }) as Parameters<typeof keptIn>[0];

describe("where checkpoints are kept", () => {
  it("is the volume that the job has, or had", () => {
    expect(keptIn({ ...none, volume_id: "vol-1", volume_zone: "us-east-1a" })).toBe("the job's volume vol-1 in us-east-1a");
    expect(keptIn({ ...none, volumes: [{ ...volume, deleted_at: "2026-03-01T01:00:00Z" }] })).toBe("the job's volume, which is gone");
  });

  it("is the store of a job without a volume", () => {
    expect(keptIn(stored({ kind: "s3", bucket: "b", prefix: "perdure/" }))).toBe("the bucket s3://b/perdure/");
    expect(keptIn(stored({ kind: "directory", directory: "/efs" }))).toBe("the shared directory /efs");
    expect(keptIn(none)).toBeNull();
  });
});
