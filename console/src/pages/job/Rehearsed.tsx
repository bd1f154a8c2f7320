import StatusIndicator from "@cloudscape-design/components/status-indicator";

import type { Schema } from "../../api/client";
import { Prose } from "../../components/Prose";
import { Time } from "../../components/Time";
import { duration } from "../../format";
import { useNow } from "../../hooks";

/** The newest rehearsal: a checkpoint was restored beside its running job, to see whether it comes back. */
type Rehearsal = Schema<"RehearsalView">;

const KINDS = { passed: "success", failed: "error", "not tried": "stopped" } as const;

/** Null: none yet, or rehearsals are off. */
export function Rehearsed({ of }: { of: Rehearsal | null }) {
  const now = new Date(useNow(10_000));
  if (of === null) return <>Not rehearsed</>;
  return (
    <>
      <StatusIndicator type={KINDS[of.verdict]} iconAriaLabel={of.verdict} /> Checkpoint {of.number}{" "}
      {of.verdict === "passed" ? `came back in ${duration(of.seconds)}` : <Outcome of={of} />}, <Time at={of.at} relative={now} />
    </>
  );
}

function Outcome({ of }: { of: Rehearsal }) {
  return (
    <>
      {of.verdict === "failed" ? "did not come back: " : "was not tried: "}
      <Prose text={of.reason.replace(/\.$/, "")} />
    </>
  );
}
