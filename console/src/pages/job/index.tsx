/** One job: how it stands, its life-line, what a reclaim would do to it now, and everything that is known of it. */
import SpaceBetween from "@cloudscape-design/components/space-between";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useParams } from "@tanstack/react-router";
import { useDeferredValue } from "react";

import type { Schema } from "../../api/client";
import { useLive } from "../../api/live";
import { DetailPage } from "../../components/DetailPage";
import { Failure } from "../../components/Failure";
import { FINISHED } from "../../components/JobStatus";
import { useGathered, useTitle } from "../../hooks";
import { lastJobs } from "../jobs/last";
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
  const asked = useQuery(jobQuery(jobId));
  const { data: life, error: lifeError } = useQuery(lifeLineQuery(jobId));
  const name = asked.data?.name || jobId;
  useTitle(asked.data ? name : "Job");

  const anew = useGathered(() => void client.invalidateQueries({ queryKey: ["job", jobId] }), GATHER_MS);
  useLive(anew, { job: jobId, onReset: anew });

  const below = useDeferredValue(true, false); // what is not seen at first is drawn after what is
  const runs = asked.data !== undefined && !FINISHED.has(asked.data.state);
  return (
    <DetailPage
      list={{ text: "Jobs", to: "/jobs", search: lastJobs }}
      name={name}
      asked={asked}
      header={(job) => <JobHeader job={job} />}
    >
      {(job) => (
        <SpaceBetween size="l">
          <JobAlerts job={job} />
          {life && life.line.stretches.length > 0 && <LifeLine {...life} runs={runs} />}
          {lifeError && !life && <Failure problem={lifeError} />}
          {job.reclaim_now && <Outlook job={job} reclaim={job.reclaim_now} />}
          <JobFacts job={job} />
          {below && <JobTabs job={job} />}
        </SpaceBetween>
      )}
    </DetailPage>
  );
}
