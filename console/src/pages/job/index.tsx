/** One job: how it stands, its life-line, what a reclaim would do to it now, and everything that is known of it. */
import BreadcrumbGroup from "@cloudscape-design/components/breadcrumb-group";
import ContentLayout from "@cloudscape-design/components/content-layout";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useParams, useRouter } from "@tanstack/react-router";

import type { Schema } from "../../api/client";
import { isMissing } from "../../api/errors";
import { useLive } from "../../api/live";
import { Failure } from "../../components/Failure";
import { FINISHED } from "../../components/JobStatus";
import { PageWaiting } from "../../components/PageWaiting";
import { lastJobs } from "../jobs/last";
import { useGathered, useNow, useTitle } from "../../hooks";
import { JobAlerts } from "./JobAlerts";
import { JobFacts } from "./JobFacts";
import { JobHeader } from "./JobHeader";
import { JobTabs } from "./JobTabs";
import { LifeLine } from "./life-line/LifeLine";
import { Outlook } from "./Outlook";
import { jobQuery, lifeLineQuery } from "./queries";

export type Job = Schema<"JobWithTimeline">;

const GATHER_MS = 250;

export default function JobPage() {
  const { jobId } = useParams({ from: "/shell/jobs/$jobId" });
  const client = useQueryClient();
  const { data: job, error, refetch } = useQuery(jobQuery(jobId));
  const { data: life, error: lifeError } = useQuery(lifeLineQuery(jobId));
  useTitle(job ? job.name || jobId : "Job");

  const anew = useGathered(() => void client.invalidateQueries({ queryKey: ["job", jobId] }), GATHER_MS);
  useLive(anew, { job: jobId, onReset: anew });

  const runs = job !== undefined && !FINISHED.has(job.state);
  const here = useNow(1000, runs);
  const now = life ? Date.parse(life.line.now) + (runs ? Math.max(0, here - life.cameAt) : 0) : here;

  if (error && !job)
    return (
      <ContentLayout header={<Trail name={jobId} />}>
        <Failure problem={error} onRetry={isMissing(error) ? undefined : () => void refetch()} />
      </ContentLayout>
    );
  if (!job) return <PageWaiting />;
  return (
    <ContentLayout
      header={
        <SpaceBetween size="xs">
          <Trail name={job.name || job.job_id} />
          <JobHeader job={job} />
        </SpaceBetween>
      }
    >
      <SpaceBetween size="l">
        <JobAlerts job={job} />
        {life && life.line.stretches.length > 0 && <LifeLine line={life.line} now={now} />}
        {lifeError && !life && <Failure problem={lifeError} />}
        {job.reclaim_now && <Outlook job={job} reclaim={job.reclaim_now} />}
        <JobFacts job={job} />
        <JobTabs job={job} />
      </SpaceBetween>
    </ContentLayout>
  );
}

function Trail({ name }: { name: string }) {
  const router = useRouter();
  return (
    <BreadcrumbGroup
      ariaLabel="Breadcrumbs"
      items={[
        { text: "Jobs", href: "/jobs" },
        { text: name, href: "" },
      ]}
      onFollow={(event) => {
        event.preventDefault();
        if (event.detail.href) void router.navigate({ to: "/jobs", search: lastJobs() });
      }}
    />
  );
}
