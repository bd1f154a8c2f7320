import Box from "@cloudscape-design/components/box";
import Header from "@cloudscape-design/components/header";
import StatusIndicator from "@cloudscape-design/components/status-indicator";
import Table from "@cloudscape-design/components/table";
import { useQuery } from "@tanstack/react-query";

import { ApiError } from "../../api/errors";
import { Failure } from "../../components/Failure";
import { instanceTypesQuery } from "./queries";

/** Instance types that can restore the newest checkpoint, by the CPU features that its processes may rely on. */
export default function InstanceTypes({ jobId }: { jobId: string }) {
  const { data, error, isPending, refetch } = useQuery(instanceTypesQuery(jobId));
  if (error instanceof ApiError && error.status === 409) return <Box padding="m">{error.message}</Box>;
  if (error && !data) return <Failure problem={error} onRetry={() => void refetch()} />;
  return (
    <Table
      items={data?.instance_types ?? []}
      loading={isPending}
      loadingText="Loading"
      trackBy="instance_type"
      contentDensity="compact"
      wrapLines
      ariaLabels={{ tableLabel: "Instance types that can go on with the job" }}
      header={
        <Header
          description={data && `Its processes may rely on: ${data.needs.join(", ")}. Expectations are of ${data.table_date}.`}
        >
          Instance types
        </Header>
      }
      columnDefinitions={[
        { id: "type", header: "Instance type", cell: (one) => one.instance_type, isRowHeader: true },
        {
          id: "fits",
          header: "Can go on with it",
          cell: (one) => <StatusIndicator type={one.fits ? "success" : "error"}>{one.fits ? "Yes" : "No"}</StatusIndicator>,
        },
        { id: "basis", header: "Known from", cell: (one) => (one.basis === "seen" ? "A node of that type" : "Perdure's table") },
        { id: "missing", header: "Lacks", cell: (one) => one.missing.join(", ") || "–" },
      ]}
    />
  );
}
