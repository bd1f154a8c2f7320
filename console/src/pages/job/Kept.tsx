import Alert from "@cloudscape-design/components/alert";

import type { Schema } from "../../api/client";
import { useIsAdmin } from "../../api/me";
import { KeptUntil } from "../../components/KeptUntil";
import { RouterLink } from "../../components/RouterLink";
import { useNow } from "../../hooks";

/** What a job that is over can be resumed from, or as which job it goes on. */
export function Kept({ kept }: { kept: Schema<"KeptCheckpointView"> }) {
  const now = useNow(10_000);
  const isAdmin = useIsAdmin();
  if (kept.resumed_as !== null)
    return (
      <Alert type="info" header="It was resumed">
        {kept.resumed_as ? (
          <RouterLink to="/jobs/$jobId" params={{ jobId: kept.resumed_as }}>
            Job {kept.resumed_as}
          </RouterLink>
        ) : (
          "A new job"
        )}{" "}
        goes on from checkpoint {kept.checkpoint}.
      </Alert>
    );
  return (
    <Alert type="info" header="It can be resumed">
      Checkpoint {kept.checkpoint} is <KeptUntil until={kept.until} now={now} />. <b>Resume</b> goes on from there in a new
      job{isAdmin ? "" : "; an administrator can do that"}.
    </Alert>
  );
}
