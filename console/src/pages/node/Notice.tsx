import Alert from "@cloudscape-design/components/alert";

import type { Schema } from "../../api/client";
import { Time } from "../../components/Time";

/** What AWS announced of a node that is still there. */
export function Notice({ node }: { node: Schema<"NodeDetail"> }) {
  const { notice } = node;
  if (!notice || node.state === "gone") return null;
  if (notice.kind === "rebalance")
    return (
      <Alert type="info" header="AWS says that this instance is at elevated risk">
        Seen at <Time at={notice.seen_at} />. A Spot notice may follow, or not. Checkpoints go on as usual.
      </Alert>
    );
  return (
    <Alert type="warning" header="AWS takes this instance back">
      The notice was seen at <Time at={notice.seen_at} />
      {notice.deadline && (
        <>
          ; the instance ends at <Time at={notice.deadline} />
        </>
      )}
      . The final checkpoints of its jobs began at once.
    </Alert>
  );
}
