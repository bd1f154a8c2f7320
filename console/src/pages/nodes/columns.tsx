import type { TableProps } from "@cloudscape-design/components/table";

import type { Schema } from "../../api/client";
import { NodeStatus } from "../../components/NodeStatus";
import { RouterLink } from "../../components/RouterLink";
import { Time } from "../../components/Time";
import { count, dollars } from "../../format";

export type Node = Schema<"NodeWithWork">;

export const COLUMNS: TableProps.ColumnDefinition<Node>[] = [
  {
    id: "instance_id",
    header: "Instance",
    sortingField: "instance_id",
    isRowHeader: true,
    minWidth: 180,
    cell: (node) => (
      <RouterLink to="/nodes/$instanceId" params={{ instanceId: node.instance_id }}>
        {node.instance_id}
      </RouterLink>
    ),
  },
  { id: "state", header: "State", minWidth: 150, cell: (node) => <NodeStatus node={node} /> },
  { id: "type", header: "Type", minWidth: 100, cell: (node) => node.instance_type },
  { id: "zone", header: "Zone", minWidth: 100, cell: (node) => node.zone },
  { id: "jobs", header: "Jobs", minWidth: 70, cell: (node) => <span className="figure">{count(node.jobs)}</span> },
  {
    id: "checkpoints",
    header: "Checkpoints",
    minWidth: 110,
    cell: (node) => <span className="figure">{count(node.checkpoints)}</span>,
  },
  {
    id: "cost",
    header: "Cost of its jobs",
    minWidth: 120,
    cell: (node) => (
      <span className="figure" title={node.cost_estimated ? "Rests on a price that is estimated" : undefined}>
        {dollars(node.cost_usd)}
        {node.cost_estimated && " (estimated)"}
      </span>
    ),
  },
  {
    id: "first_seen_at",
    header: "First seen",
    sortingField: "first_seen_at",
    minWidth: 130,
    cell: (node) => <Time at={node.first_seen_at} brief />,
  },
  {
    id: "ended_at",
    header: "Ended",
    sortingField: "ended_at",
    minWidth: 130,
    cell: (node) => <Time at={node.ended_at} brief />,
  },
  {
    id: "notice",
    header: "Notice",
    minWidth: 130,
    cell: (node) => <Time at={node.notice?.seen_at} brief />,
  },
  { id: "paid", header: "Paid as", minWidth: 100, cell: (node) => node.pay_type || "–" },
];
