import Tabs from "@cloudscape-design/components/tabs";
import { useState } from "react";

import { count } from "../../format";
import type { Job } from ".";
import { Checkpoints } from "./Checkpoints";
import { Configuration } from "./Configuration";
import { Costs } from "./Costs";
import { Events } from "./Events";
import { InstanceTypes } from "./InstanceTypes";
import { Logs } from "./Logs";

/** Everything else, each asked for when somebody looks at it. */
export function JobTabs({ job }: { job: Job }) {
  const [active, setActive] = useState("events");
  return (
    <Tabs
      activeTabId={active}
      onChange={({ detail }) => setActive(detail.activeTabId)}
      tabs={[
        { id: "events", label: "Events", content: <Events job={job} /> },
        {
          id: "checkpoints",
          label: `Checkpoints (${count(job.checkpoints_committed)})`,
          content: <Checkpoints jobId={job.job_id} quarantined={job.quarantined} />,
        },
        { id: "costs", label: "Costs", content: <Costs jobId={job.job_id} /> },
        { id: "configuration", label: "Configuration", content: <Configuration jobId={job.job_id} /> },
        { id: "instance-types", label: "Where it can go on", content: <InstanceTypes jobId={job.job_id} /> },
        { id: "logs", label: "Logs", content: <Logs jobId={job.job_id} /> },
      ]}
    />
  );
}
