import Alert from "@cloudscape-design/components/alert";
import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import Container from "@cloudscape-design/components/container";
import Header from "@cloudscape-design/components/header";
import Select from "@cloudscape-design/components/select";
import SpaceBetween from "@cloudscape-design/components/space-between";
import Spinner from "@cloudscape-design/components/spinner";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";

import { Failure } from "../../components/Failure";
import { bytes } from "../../format";
import { logsQuery } from "./queries";

/** What Perdure's programs wrote about the job, file by file. What the job printed is in another tab. */
export default function Logs({ jobId }: { jobId: string }) {
  const { data, error, isFetching, refetch } = useQuery(logsQuery(jobId));
  const [name, setName] = useState<string | null>(null);
  if (error && !data) return <Failure problem={error} onRetry={() => void refetch()} />;
  if (!data)
    return (
      <Box padding="m">
        <Spinner /> The node is asked for its logs; that takes up to 12 s.
      </Box>
    );
  const texts = data.files.filter((one) => one.text !== null);
  const shown = texts.find((one) => one.name === name) ?? texts.find((one) => /timeline|events/.test(one.name)) ?? texts[0];
  return (
    <Container
      header={
        <Header
          description="What Perdure's programs wrote about the job. What the job printed is in the tab Output."
          actions={
            <SpaceBetween direction="horizontal" size="xs">
              <Button iconName="refresh" ariaLabel="Ask again" loading={isFetching} onClick={() => void refetch()} />
              <Button iconName="download" href={`/api/v1/jobs/${encodeURIComponent(jobId)}/logs`} download>
                All as one zip
              </Button>
            </SpaceBetween>
          }
        >
          Logs
        </Header>
      }
    >
      <SpaceBetween size="s">
        {data.missing && (
          <Alert type="info" header="What could not be had">
            <div className="log-missing">{data.missing}</div>
          </Alert>
        )}
        {shown && (
          <>
            <Select
              ariaLabel="File"
              filteringType="auto"
              selectedOption={{ value: shown.name, label: shown.name }}
              options={texts.map((one) => ({ value: one.name, label: one.name, description: bytes(one.size) }))}
              onChange={({ detail }) => setName(detail.selectedOption.value ?? null)}
            />
            {shown.cut && <Box variant="small">The end of {bytes(shown.size)}; the zip has all of it.</Box>}
            <pre className="log" tabIndex={0} aria-label={shown.name}>
              {shown.text}
            </pre>
          </>
        )}
      </SpaceBetween>
    </Container>
  );
}
