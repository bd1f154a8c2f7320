/** What a reclaim would do to the job at this moment. */
import Box from "@cloudscape-design/components/box";
import Container from "@cloudscape-design/components/container";
import Header from "@cloudscape-design/components/header";
import KeyValuePairs from "@cloudscape-design/components/key-value-pairs";
import SpaceBetween from "@cloudscape-design/components/space-between";
import StatusIndicator from "@cloudscape-design/components/status-indicator";

import type { Schema } from "../../api/client";
import { Prose } from "../../components/Prose";
import { Time } from "../../components/Time";
import { duration } from "../../format";
import type { Job } from ".";
import { Rehearsed } from "./Rehearsed";

type Reclaim = Schema<"ReclaimNowView">;

/** How well a final checkpoint fits into AWS's notice: `success` with a good reserve, `warning` barely, `error` not. */
export function fits(reclaim: Pick<Reclaim, "final_seconds" | "notice_seconds">): "success" | "warning" | "error" | null {
  if (reclaim.final_seconds == null) return null;
  if (reclaim.final_seconds > reclaim.notice_seconds) return "error";
  return reclaim.final_seconds > reclaim.notice_seconds * 0.6 ? "warning" : "success";
}

const COLOURS = { green: "success", amber: "warning", red: "error" } as const;

/** How long saving it takes: predicted from what the newest checkpoints took, else as long as the newest took. */
function Saving({ job, reclaim }: { job: Job; reclaim: Reclaim }) {
  const budget = job.budget;
  const fit = budget ? COLOURS[budget.colour] : fits(reclaim);
  if (!fit) return <>Not known yet</>;
  return (
    <>
      <StatusIndicator type={fit}>{duration(budget?.seconds ?? reclaim.final_seconds)}</StatusIndicator>
      {budget ? budget.advice && <Box variant="small">{budget.advice}</Box> : `, as checkpoint ${reclaim.checkpoint} did`}
    </>
  );
}

export function Outlook({ job, reclaim }: { job: Job; reclaim: Reclaim }) {
  const verdict = job.verdicts.find((one) => one.ending === "reclaim");
  return (
    <Container
      header={
        <Header variant="h2" description="What would be left of the job if AWS took its instance at this moment.">
          A reclaim now
        </Header>
      }
    >
      <SpaceBetween size="m">
        <KeyValuePairs
          columns={4}
          items={[
            {
              label: "It goes on from",
              value: reclaim.checkpoint ? (
                <>
                  Checkpoint {reclaim.checkpoint}, <Time at={reclaim.frozen_at} />
                </>
              ) : (
                <StatusIndicator type="warning">No checkpoint yet</StatusIndicator>
              ),
            },
            {
              label: `Saving it takes (AWS gives ${duration(reclaim.notice_seconds)})`,
              value: <Saving job={job} reclaim={reclaim} />,
            },
            { label: "Rehearsed", value: <Rehearsed of={job.rehearsal} /> },
            { label: "Lost without a notice", value: reclaim.at_risk_seconds == null ? "–" : `${duration(reclaim.at_risk_seconds)} of work` },
            {
              label: "AWS Batch starts it again",
              value: (
                <>
                  <StatusIndicator type={verdict?.retried ? "success" : "error"}>
                    {verdict?.retried ? "Yes" : "No"}
                  </StatusIndicator>
                  {verdict?.retried && job.attempts_left != null && `, attempts left: ${job.attempts_left}`}
                </>
              ),
            },
          ]}
        />
        <ul className="plain-list">
          {job.verdicts.map((one) => (
            <li key={one.ending} className="verdict">
              <StatusIndicator type={one.retried ? "success" : "stopped"} iconAriaLabel={one.retried ? "Retried" : "Not retried"} />
              <span>
                <Prose text={one.message} />
              </span>
            </li>
          ))}
        </ul>
      </SpaceBetween>
    </Container>
  );
}
