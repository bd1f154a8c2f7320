/** Why a job failed, or began anew: what its timeline and its exit code say. */
import type { Job } from ".";

/** The lines that say why no checkpoint could be restored in the container that is there. */
export function startedClean(job: Pick<Job, "events" | "epoch">): Job["events"] {
  const here = job.events.filter((one) => one.epoch === job.epoch && one.level !== "info");
  const clean = here.some((one) => one.kind === "started");
  return clean ? here.filter((one) => one.kind === "restore failed" || one.kind === "started") : [];
}

/** The lines of the timeline that speak of the end: its last troubles, and the end itself. */
export function failure(job: Pick<Job, "events">): Job["events"] {
  const troubles = job.events.filter((one) => one.level !== "info" && one.kind !== "notice");
  const end = job.events.filter((one) => one.kind === "finished" || one.kind === "exited");
  return [...new Set([...troubles.slice(-3), ...end.slice(-1)])].sort((a, b) => a.sequence - b.sequence);
}

/** What to do about a reclaim that nothing followed, or about an exit code that has a usual meaning. */
export function hint(job: Pick<Job, "exit_code" | "kept" | "diagnosis">): string {
  // In diagnosis mode a checkpoint is kept whatever the end was.
  if (job.kept && !job.diagnosis)
    return "A reclaim ended it, and AWS Batch may not start it again. With more attempts in its retry strategy it would.";
  switch (job.exit_code) {
    case 137:
      return "Exit code 137: the container was killed, most often because it needed more memory than the job asks for. Ask for more.";
    case 139:
      return "Exit code 139: a process of the job crashed (segmentation fault). What it printed may say more: see the tab Output.";
    case 127:
      return "Exit code 127: the job's command was not found in its image.";
    case 126:
      return "Exit code 126: the job's command could not be executed.";
    case null:
      return "No exit code is known. The events below and the log bundle say what the node saw.";
    default:
      return "The exit code is the job's own. What the job printed says why: see the tab Output. The log bundle has what Perdure saw.";
  }
}
