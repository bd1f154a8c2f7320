/** What the address of the list of jobs says. */
export type JobsSearch = Record<string, unknown>;

export const validateJobsSearch = (search: Record<string, unknown>): JobsSearch => search;
