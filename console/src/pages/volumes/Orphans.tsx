/** Volumes and snapshots in AWS that nobody owns, as the hourly look found them. */
import Box from "@cloudscape-design/components/box";
import Header from "@cloudscape-design/components/header";
import StatusIndicator from "@cloudscape-design/components/status-indicator";
import Table from "@cloudscape-design/components/table";
import { useQuery } from "@tanstack/react-query";

import { api, wanted, type Schema } from "../../api/client";
import { Failure } from "../../components/Failure";
import { Prose } from "../../components/Prose";
import { Time } from "../../components/Time";
import { bytes, count, dollars } from "../../format";
import { Money } from "./Money";

type Orphan = Schema<"OrphanView">;

const orphansQuery = {
  queryKey: ["volumes", "orphans"],
  queryFn: () => wanted(api.GET("/api/v1/volumes/orphans")),
};

export function Orphans() {
  const { data, error, refetch } = useQuery(orphansQuery);
  if (error && !data) return <Failure problem={error} onRetry={() => void refetch()} />;
  if (!data) return null;
  const { found, found_usd_per_month, deleted, saved_usd_per_month } = data.totals;
  const gone = deleted > 0 ? ` Deleted so far: ${count(deleted)}, which would cost ${dollars(saved_usd_per_month)} a month.` : "";
  if (found === 0) return <StatusIndicator>No volume and no snapshot is without an owner.{gone}</StatusIndicator>;
  return (
    <Table<Orphan>
      items={data.items}
      trackBy="resource_id"
      contentDensity="compact"
      wrapLines
      ariaLabels={{ tableLabel: "Volumes and snapshots without an owner" }}
      header={
        <Header
          variant="h2"
          counter={`(${count(found)})`}
          description={`Perdure made them, and no job owns them any more: ${dollars(found_usd_per_month)} a month.${gone}`}
        >
          Without an owner
        </Header>
      }
      footer={data.next && <Box variant="small">The newest {count(data.items.length)} are shown.</Box>}
      columnDefinitions={[
        { id: "id", header: "Volume or snapshot", isRowHeader: true, minWidth: 180, cell: (one) => one.resource_id },
        { id: "why", header: "Why", minWidth: 260, cell: (one) => <Prose text={one.reason} /> },
        {
          id: "month",
          header: "A month",
          minWidth: 110,
          cell: (one) => <Money usd={one.usd_per_month} estimated={one.estimated} />,
        },
        {
          id: "until",
          header: "Deleted on",
          minWidth: 160,
          cell: (one) => (one.refusal ? <Prose text={`never: ${one.refusal}`} /> : <Time at={one.deletes_at} brief missing="never, unless by a person" />),
        },
        { id: "size", header: "Size", minWidth: 90, cell: (one) => <span className="figure">{bytes(one.size_bytes)}</span> },
        { id: "since", header: "Found", minWidth: 150, cell: (one) => <Time at={one.found_at} brief /> },
      ]}
    />
  );
}
