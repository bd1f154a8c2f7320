import { describe, expect, it } from "vitest";

import { keptIn } from "./kept";

const none = { volume_id: null, volume_zone: null };
const settings = (values: Record<string, unknown>) =>
  Object.entries(values).map(([field, value]) => ({ field, value, source: "system", variable: null, words: "" })) as Parameters<typeof keptIn>[1];

describe("where checkpoints are kept", () => {
  it("is the volume that the job has", () => {
    const job = { ...none, volume_id: "vol-1", volume_zone: "us-east-1a" };
    expect(keptIn(job, [])).toBe("the job's volume vol-1 in us-east-1a");
  });

  it("is the volume that it had", () => {
    expect(keptIn(none, settings({ "job_volume.enabled": true, "store.kind": "s3" }))).toBe("the job's volume");
  });

  it("is the store of a job without a volume", () => {
    const s3 = { "job_volume.enabled": false, "store.kind": "s3", "store.bucket": "b", "store.prefix": "perdure/" };
    expect(keptIn(none, settings(s3))).toBe("the bucket s3://b/perdure/");
    const shared = { "job_volume.enabled": false, "store.kind": "directory", "store.directory": "/efs" };
    expect(keptIn(none, settings(shared))).toBe("the shared directory /efs");
    expect(keptIn(none, settings({ "job_volume.enabled": false, "store.kind": "none" }))).toBeNull();
  });
});
