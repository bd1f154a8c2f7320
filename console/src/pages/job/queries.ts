/** What the page of a job asks for. */
import { queryOptions } from "@tanstack/react-query";

import { api, wanted, type Schema } from "../../api/client";

const PAGE = 200;

const of = (jobId: string) => ({ params: { path: { job_id: jobId } } });

export const jobQuery = (jobId: string) =>
  queryOptions({ queryKey: ["job", jobId], queryFn: () => wanted(api.GET("/api/v1/jobs/{job_id}", of(jobId))) });

export const lifeLineQuery = (jobId: string) =>
  queryOptions({
    queryKey: ["job", jobId, "life-line"],
    // When the answer came, by this machine's clock: the server's may differ.
    queryFn: async () => ({
      line: await wanted(api.GET("/api/v1/jobs/{job_id}/life-line", of(jobId))),
      cameAt: Date.now(),
    }),
  });

export const checkpointsQuery = (jobId: string) =>
  queryOptions({
    queryKey: ["job", jobId, "checkpoints"],
    queryFn: () => wanted(api.GET("/api/v1/jobs/{job_id}/checkpoints", of(jobId))),
  });

export const ledgerQuery = (jobId: string) =>
  queryOptions({
    queryKey: ["job", jobId, "ledger"],
    queryFn: () =>
      wanted(
        api.GET("/api/v1/jobs/{job_id}/ledger", { params: { path: { job_id: jobId }, query: { limit: 200 } } }),
      ),
  });

export const jobReportQuery = (jobId: string) =>
  queryOptions({
    queryKey: ["job", jobId, "report"],
    queryFn: () => wanted(api.GET("/api/v1/report", { params: { query: { job: jobId } } })),
  });

export const jobConfigurationQuery = (jobId: string) =>
  queryOptions({
    queryKey: ["job", jobId, "configuration"],
    queryFn: () => wanted(api.GET("/api/v1/jobs/{job_id}/configuration", of(jobId))),
  });

/** Read anew when it is asked for: it changes with every line that the job prints. */
export const outputQuery = (jobId: string) =>
  queryOptions({
    queryKey: ["job-output", jobId],
    queryFn: () => wanted(api.GET("/api/v1/jobs/{job_id}/output", of(jobId))),
    staleTime: 0,
  });

/** All lines of the timeline before `first`. Their numbers follow each other, so the pages are asked for at once. */
export const earlierQuery = (jobId: string, first: number) =>
  queryOptions({
    queryKey: ["job-events-before", jobId, first],
    queryFn: async () => {
      const begins = Array.from({ length: Math.ceil((first - 1) / PAGE) }, (_, page) => page * PAGE);
      const pages = begins.map((after) =>
        wanted(
          api.GET("/api/v1/jobs/{job_id}/events", {
            params: { path: { job_id: jobId }, query: { after, limit: Math.min(PAGE, first - 1 - after) } },
          }),
        ),
      );
      return (await Promise.all(pages)).flat();
    },
    staleTime: Infinity,
  });

export const logsQuery = (jobId: string) =>
  queryOptions({
    queryKey: ["job", jobId, "logs"],
    queryFn: async () =>
      (await wanted(
        api.GET("/api/v1/jobs/{job_id}/logs", { params: { path: { job_id: jobId }, query: { format: "json" } } }),
      )) as Schema<"LogBundleView">, // not the zip
    staleTime: Infinity,
  });

export const workflowQuery = (jobId: string) =>
  queryOptions({
    queryKey: ["job-workflow", jobId],
    queryFn: () => wanted(api.GET("/api/v1/jobs/{job_id}/workflow", of(jobId))),
    staleTime: 60_000,
    retry: false,
  });

export const instanceTypesQuery = (jobId: string) =>
  queryOptions({
    queryKey: ["job", jobId, "instance-types"],
    queryFn: () => wanted(api.GET("/api/v1/jobs/{job_id}/compatible-instance-types", of(jobId))),
    retry: false,
  });
