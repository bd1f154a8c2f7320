/** What the job printed, in one log: the log streams of its containers, each line once. */
import Alert from "@cloudscape-design/components/alert";
import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import Container from "@cloudscape-design/components/container";
import Header from "@cloudscape-design/components/header";
import Link from "@cloudscape-design/components/link";
import SpaceBetween from "@cloudscape-design/components/space-between";
import Toggle from "@cloudscape-design/components/toggle";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";

import type { Schema } from "../../api/client";
import { Failure } from "../../components/Failure";
import { PageWaiting } from "../../components/PageWaiting";
import { count } from "../../format";
import { linesOf, undoneIn, type ContainerOutput } from "./printed";
import { outputQuery } from "./queries";

export default function Output({ jobId }: { jobId: string }) {
  const { data, error, isFetching, refetch } = useQuery(outputQuery(jobId));
  const [all, setAll] = useState(false);
  if (error && !data) return <Failure problem={error} onRetry={() => void refetch()} />;
  if (!data) return <PageWaiting />;
  const undone = undoneIn(data.containers);
  return (
    <Container
      header={
        <Header
          description="What the job printed, over all its containers, as CloudWatch has it: the newest 256 KiB."
          actions={<Button iconName="refresh" ariaLabel="Read again" loading={isFetching} onClick={() => void refetch()} />}
        >
          Output
        </Header>
      }
    >
      <SpaceBetween size="m">
        {data.failure && <Alert type="info">{data.failure}</Alert>}
        {undone > 0 && (
          <Toggle checked={all} onChange={({ detail }) => setAll(detail.checked)}>
            Show {count(undone)} {undone === 1 ? "line" : "lines"} that a restore or a clean start undid: the job printed them again
          </Toggle>
        )}
        {data.containers.map((one) => (
          <Printed key={one.epoch} container={one} all={all} />
        ))}
      </SpaceBetween>
    </Container>
  );
}

function Printed({ container, all }: { container: ContainerOutput; all: boolean }) {
  const runs = linesOf(container, all);
  return (
    <section aria-label={`Output of attempt ${container.attempt}`}>
      <Title of={container} />
      {container.failure && <Box color="text-body-secondary">{container.failure}</Box>}
      {container.cut && <Box variant="small">The beginning is left out; its log stream has all of it.</Box>}
      {!container.failure && runs.length === 0 && (
        <Box color="text-body-secondary">{container.lines.length > 0 ? "A restore or a clean start undid all of it." : "Nothing."}</Box>
      )}
      {runs.length > 0 && (
        <pre className="log" tabIndex={0} aria-label={`Lines of attempt ${container.attempt}`}>
          {runs.map((run, place) =>
            run.undone ? <s key={place}>{run.text}</s> : <span key={place}>{run.text}</span>,
          )}
        </pre>
      )}
    </section>
  );
}

function Title({ of }: { of: Schema<"ContainerOutputView"> }) {
  const began = of.restored_from == null ? "" : `, from checkpoint ${of.restored_from}`;
  return (
    <Box variant="h4" padding={{ bottom: "xxs" }}>
      Attempt {of.attempt} on {of.instance_id} in {of.zone}
      {began}
      {of.log_url && (
        <>
          {" · "}
          <Link external href={of.log_url} externalIconAriaLabel="opens in a new tab">
            Log stream
          </Link>
        </>
      )}
    </Box>
  );
}
