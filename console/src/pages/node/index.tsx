/** One node: what AWS announced of it, what ran on it, and what that cost. */
import Header from "@cloudscape-design/components/header";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useParams } from "@tanstack/react-router";

import { useLive } from "../../api/live";
import { DetailPage } from "../../components/DetailPage";
import { NodeStatus } from "../../components/NodeStatus";
import { RouterLink } from "../../components/RouterLink";
import { useGathered, useTitle } from "../../hooks";
import { Facts } from "./Facts";
import { Notice } from "./Notice";
import { nodeQuery } from "./queries";
import { Runs } from "./Runs";

const GATHER_MS = 300;

export default function NodePage() {
  const { instanceId } = useParams({ from: "/shell/nodes/$instanceId" });
  useTitle(instanceId);
  const asked = useQuery(nodeQuery(instanceId));
  const client = useQueryClient();
  const anew = useGathered(() => void client.invalidateQueries({ queryKey: ["node", instanceId] }), GATHER_MS);
  useLive(
    (change) => {
      const here = change.kind === "node" && change.node.instance_id === instanceId;
      const runs = asked.data?.runs ?? [];
      if (here || (change.kind === "job" && runs.some((run) => run.job_id === change.job.job_id && !run.ended_at)))
        anew();
    },
    { onReset: anew },
  );
  return (
    <DetailPage
      list={{ text: "Worker nodes", to: "/nodes" }}
      name={instanceId}
      asked={asked}
      header={(node) => (
        <Header
          variant="h1"
          description={`${node.instance_type} in ${node.zone}`}
          info={<NodeStatus node={node} />}
          actions={
            <RouterLink to="/jobs" search={{ node: [instanceId] }}>
              Jobs that are, or were last, here
            </RouterLink>
          }
        >
          {instanceId}
        </Header>
      )}
    >
      {(node) => (
        <SpaceBetween size="l">
          <Notice node={node} />
          <Facts node={node} />
          <Runs runs={node.runs} />
        </SpaceBetween>
      )}
    </DetailPage>
  );
}
