import Tabs from "@cloudscape-design/components/tabs";
import { lazy, Suspense, useState } from "react";

import { PageWaiting } from "../../components/PageWaiting";
import { count } from "../../format";
import type { Job } from ".";
import { Attempts } from "./Attempts";
import { Events } from "./Events";

// The code of the others is loaded, and what they show is asked for, when somebody looks.
const Checkpoints = lazy(() => import("./Checkpoints"));
const Costs = lazy(() => import("./Costs"));
const Configuration = lazy(() => import("./Configuration"));
const InstanceTypes = lazy(() => import("./InstanceTypes"));
const Output = lazy(() => import("./Output"));
const Logs = lazy(() => import("./Logs"));

/** Everything else that is known of the job. */
export function JobTabs({ job }: { job: Job }) {
  const [active, setActive] = useState("events");
  const tabs = [
    { id: "events", label: "Events", content: <Events key={job.job_id} job={job} /> },
    { id: "output", label: "Output", content: <Output jobId={job.job_id} /> },
    { id: "attempts", label: `Attempts (${count(job.attempts.length)})`, content: <Attempts job={job} /> },
    {
      id: "checkpoints",
      label: `Checkpoints (${count(job.checkpoints_committed)})`,
      content: <Checkpoints job={job} />,
    },
    { id: "costs", label: "Costs", content: <Costs jobId={job.job_id} /> },
    { id: "configuration", label: "Settings", content: <Configuration jobId={job.job_id} /> },
    { id: "instance-types", label: "Instance types", content: <InstanceTypes jobId={job.job_id} /> },
    { id: "logs", label: "Logs", content: <Logs jobId={job.job_id} /> },
  ];
  return (
    <Tabs
      activeTabId={active}
      onChange={({ detail }) => setActive(detail.activeTabId)}
      tabs={tabs.map((tab) => ({ ...tab, content: <Suspense fallback={<PageWaiting />}>{tab.content}</Suspense> }))}
    />
  );
}
