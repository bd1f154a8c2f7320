/** The list as it was last looked at in this tab, so that the way back from a job leads there. */
import type { JobsSearch } from "./search";

const KEY = "perdure-jobs-last";

export function rememberJobs(search: JobsSearch) {
  sessionStorage.setItem(KEY, JSON.stringify(search));
}

export function lastJobs(): JobsSearch {
  try {
    return JSON.parse(sessionStorage.getItem(KEY) ?? "{}") as JobsSearch;
  } catch {
    return {};
  }
}
