import StatusIndicator from "@cloudscape-design/components/status-indicator";

import type { Schema } from "../api/client";

type Node = Pick<Schema<"NodeWithWork">, "state" | "ended_by" | "notice">;

/** What a node is fit for, and what AWS announced of it. */
export function NodeStatus({ node }: { node: Node }) {
  if (node.state === "ready") return <StatusIndicator type="success">Live</StatusIndicator>;
  if (node.state === "noticed") {
    const early = node.notice?.kind === "rebalance";
    return <StatusIndicator type="warning">{early ? "At risk" : "Being reclaimed"}</StatusIndicator>;
  }
  const by = { aws: "Reclaimed by AWS", user: "Ended" }[node.ended_by] ?? "Gone";
  return <StatusIndicator type="stopped">{by}</StatusIndicator>;
}
