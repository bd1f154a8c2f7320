import Badge from "@cloudscape-design/components/badge";
import Box from "@cloudscape-design/components/box";
import Header from "@cloudscape-design/components/header";
import Table from "@cloudscape-design/components/table";
import { useQuery } from "@tanstack/react-query";

import { Failure } from "../../components/Failure";
import { nameOf, shown } from "../configuration/shown";
import { jobConfigurationQuery } from "./queries";

const SOURCES: Record<string, { text: string; color: "grey" | "blue" | "green" }> = {
  default: { text: "Default", color: "grey" },
  system: { text: "System configuration", color: "blue" },
  environment: { text: "The job's environment", color: "green" },
};

/** What holds for the job, and where each value comes from. */
export default function Configuration({ jobId }: { jobId: string }) {
  const { data, error, isPending, refetch } = useQuery(jobConfigurationQuery(jobId));
  if (error && !data) return <Failure problem={error} onRetry={() => void refetch()} />;
  return (
    <Table
      items={data?.settings ?? []}
      loading={isPending}
      loadingText="Loading"
      trackBy="field"
      contentDensity="compact"
      wrapLines
      ariaLabels={{ tableLabel: "Configuration of the job" }}
      header={
        <Header description={data?.as_of ? "As it was when the job ended." : "The job's environment wins over the system, which wins over the defaults."}>
          Effective configuration
        </Header>
      }
      footer={
        data && data.without_effect.length > 0 ? (
          <Box variant="small">
            Without effect here: {data.without_effect.map((one) => `${one.name} (${one.why})`).join("; ")}
          </Box>
        ) : undefined
      }
      columnDefinitions={[
        { id: "field", header: "Setting", cell: (one) => nameOf(one.field), isRowHeader: true },
        { id: "value", header: "Value", cell: (one) => shown(one.field, one.value) },
        {
          id: "source",
          header: "Comes from",
          cell: (one) => (
            <>
              <Badge color={SOURCES[one.source]?.color ?? "grey"}>{SOURCES[one.source]?.text ?? one.source}</Badge>{" "}
              {one.variable && <code>{one.variable}</code>}
            </>
          ),
        },
      ]}
    />
  );
}
