import Box from "@cloudscape-design/components/box";
import Header from "@cloudscape-design/components/header";
import SpaceBetween from "@cloudscape-design/components/space-between";

import { JobStatus } from "../../components/JobStatus";
import { Prose } from "../../components/Prose";
import type { Job } from ".";
import { JobActions } from "./JobActions";

/** Its name, its state, how it stands in a sentence, and what can be done. */
export function JobHeader({ job }: { job: Job }) {
  return (
    <SpaceBetween size="xs">
      <Header variant="h1" actions={<JobActions job={job} />} info={<JobStatus state={job.state} />}>
        {job.name || job.job_id}
      </Header>
      <Box variant="p" fontSize="heading-s">
        <span className="standing" data-testid="standing"><Prose text={job.standing} /></span>
      </Box>
    </SpaceBetween>
  );
}
