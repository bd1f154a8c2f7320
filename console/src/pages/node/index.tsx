/** One node: what AWS announced of it, what ran on it, and what that cost. */
import BreadcrumbGroup from "@cloudscape-design/components/breadcrumb-group";
import ContentLayout from "@cloudscape-design/components/content-layout";
import Header from "@cloudscape-design/components/header";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { queryOptions, useQuery, useQueryClient } from "@tanstack/react-query";
import { useParams, useRouter } from "@tanstack/react-router";

import { api, wanted } from "../../api/client";
import { isMissing } from "../../api/errors";
import { useLive } from "../../api/live";
import { Failure } from "../../components/Failure";
import { NodeStatus } from "../../components/NodeStatus";
import { PageWaiting } from "../../components/PageWaiting";
import { useGathered, useTitle } from "../../hooks";
import { Facts } from "./Facts";
import { Notice } from "./Notice";
import { Runs } from "./Runs";

const GATHER_MS = 300;

const nodeQuery = (instanceId: string) =>
  queryOptions({
    queryKey: ["node", instanceId],
    queryFn: () => wanted(api.GET("/api/v1/nodes/{instance_id}", { params: { path: { instance_id: instanceId } } })),
  });

export default function NodePage() {
  const { instanceId } = useParams({ from: "/shell/nodes/$instanceId" });
  useTitle(instanceId);
  const { data: node, error, refetch } = useQuery(nodeQuery(instanceId));
  const client = useQueryClient();
  const anew = useGathered(() => void client.invalidateQueries({ queryKey: ["node", instanceId] }), GATHER_MS);
  useLive(
    (change) => {
      const here = change.kind === "node" && change.node.instance_id === instanceId;
      if (here || (change.kind === "job" && node?.runs.some((run) => run.job_id === change.job.job_id && !run.ended_at)))
        anew();
    },
    { onReset: anew },
  );

  if (error && !node)
    return (
      <ContentLayout header={<Trail name={instanceId} />}>
        <Failure problem={error} onRetry={isMissing(error) ? undefined : () => void refetch()} />
      </ContentLayout>
    );
  if (!node) return <PageWaiting />;
  return (
    <ContentLayout
      header={
        <SpaceBetween size="xs">
          <Trail name={instanceId} />
          <Header variant="h1" description={`${node.instance_type} in ${node.zone}`} info={<NodeStatus node={node} />}>
            {instanceId}
          </Header>
        </SpaceBetween>
      }
    >
      <SpaceBetween size="l">
        <Notice node={node} />
        <Facts node={node} />
        <Runs runs={node.runs} />
      </SpaceBetween>
    </ContentLayout>
  );
}

function Trail({ name }: { name: string }) {
  const router = useRouter();
  return (
    <BreadcrumbGroup
      items={[
        { text: "Worker nodes", href: "/nodes" },
        { text: name, href: "" },
      ]}
      onFollow={(event) => {
        event.preventDefault();
        if (event.detail.href) void router.navigate({ to: event.detail.href });
      }}
    />
  );
}
