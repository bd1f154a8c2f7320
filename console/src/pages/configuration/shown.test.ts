import { expect, it } from "vitest";

import { nameOf, shown } from "./shown";

it("names settings as the forms do", () => {
  expect(nameOf("checkpoint.keep")).toBe("Checkpoint: Checkpoints per job");
  expect(nameOf("without_effect.ckpt.tcpClose")).toBe("without_effect.ckpt.tcpClose");
});

it.each([
  ["checkpoint.interval_seconds", 900, "15 min"],
  ["checkpoint.interval_seconds", 0, "0"],
  ["server.keep_succeeded_seconds", 259200, "3 d"],
  ["job_volume.size_gib", 100, "100 GiB"],
  ["job_volume.size_gib", 0, "by the memory that the job asks for"],
  ["checkpoint.enabled", true, "on"],
  ["server.cert_file", null, "none"],
  ["cognito.region", "", "none"],
  ["job_volume.scratch", ["/a", "/b"], "/a, /b"],
  ["job_volume.scratch", [], "none"],
  ["job_volume.for_jobs", [], "all jobs"],
  ["store.region", "", "the instance's own"],
  ["job_volume.tags", { team: "genomics" }, "team = genomics"],
])("%s %s is shown as %s", (field, value, text) => expect(shown(field, value)).toBe(text));
