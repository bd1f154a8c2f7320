/** Worker nodes, live and ended: notices, jobs, cost; and the CSV. */
import Box from "@cloudscape-design/components/box";
import ButtonDropdown from "@cloudscape-design/components/button-dropdown";
import Header from "@cloudscape-design/components/header";
import SegmentedControl from "@cloudscape-design/components/segmented-control";
import SpaceBetween from "@cloudscape-design/components/space-between";
import Table from "@cloudscape-design/components/table";
import { useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";

import { useLive } from "../../api/live";
import { Failure } from "../../components/Failure";
import { ShowMore } from "../../components/ShowMore";
import { useAsked, useGathered, useTitle } from "../../hooks";
import { COLUMNS } from "./columns";
import { Filter } from "./Filter";
import { nodesQuery } from "./queries";
import { csvAddress, NAMES, validateNodesSearch, type NodeOrder, type NodesSearch, type Show } from "./search";

const GATHER_MS = 500;

export default function NodesPage() {
  useTitle("Worker nodes");
  const search = useSearch({ from: "/shell/nodes" });
  const wish = useAsked("/nodes", search, validateNodesSearch);
  const navigate = useNavigate({ from: "/nodes" });
  const go = (change: NodesSearch) => void navigate({ search: (now) => ({ ...now, ...change }), replace: true });
  const { data, error, refetch, isPending, hasNextPage, isFetchingNextPage, fetchNextPage } = useInfiniteQuery(
    nodesQuery(search),
  );
  const client = useQueryClient();
  const anew = useGathered(() => void client.invalidateQueries({ queryKey: ["nodes"] }), GATHER_MS);
  useLive((change) => change.kind === "node" && anew(), { onReset: anew });

  const nodes = data?.pages.flatMap((page) => page.items) ?? [];
  const sort = wish.sort ?? "-first_seen_at";
  const filtered = Boolean(search.q || search.show || NAMES.some((one) => search[one]));
  return (
    <SpaceBetween size="m">
      {error && <Failure problem={error} onRetry={() => void refetch()} />}
      <Table
        variant="full-page"
        stickyHeader
        contentDensity="compact"
        items={nodes}
        trackBy="instance_id"
        loading={isPending}
        loadingText="Reading the nodes"
        columnDefinitions={COLUMNS}
        sortingColumn={COLUMNS.find((column) => column.sortingField === sort.replace("-", ""))}
        sortingDescending={sort.startsWith("-")}
        onSortingChange={({ detail }) =>
          go({ sort: `${detail.isDescending ? "-" : ""}${detail.sortingColumn.sortingField}` as NodeOrder })
        }
        ariaLabels={{ tableLabel: "Worker nodes" }}
        header={
          <Header
            variant="awsui-h1-sticky"
            counter={data && `(${nodes.length}${hasNextPage ? "+" : ""})`}
            description="EC2 instances that have, or had, an agent of Perdure. A list sorted by the end holds ended nodes alone."
            actions={<Download search={search} />}
          >
            Worker nodes
          </Header>
        }
        filter={
          <div className="filters">
            <Filter search={wish} nodes={nodes} onChange={go} />
            <SegmentedControl
              label="Which nodes"
              selectedId={wish.show ?? "all"}
              options={[
                { id: "all", text: "All" },
                { id: "live", text: "Live" },
                { id: "ended", text: "Ended" },
              ]}
              onChange={({ detail }) =>
                go({ show: detail.selectedId === "all" ? undefined : (detail.selectedId as Show) })
              }
            />
          </div>
        }
        empty={
          <Box textAlign="center" padding="l" color="inherit">
            {filtered
              ? "No node is like this."
              : "No node has been seen yet. A node appears here when its agent starts: docs/install.md says how to install it."}
          </Box>
        }
        footer={hasNextPage && <ShowMore loading={isFetchingNextPage} onMore={() => void fetchNextPage()} />}
      />
    </SpaceBetween>
  );
}

function Download({ search }: { search: NodesSearch }) {
  const wanted = [search.q, ...NAMES.flatMap((name) => search[name] ?? [])].filter(Boolean).join(", ");
  return (
    <ButtonDropdown
      items={[
        ...(wanted
          ? [{ id: "found", text: `Finished nodes of this list: ${wanted}`, href: csvAddress(search, "gone") }]
          : []),
        { id: "gone", text: "All finished nodes", href: csvAddress({}, "gone") },
        { id: "all", text: "All nodes, live ones too", href: csvAddress({}, "all") },
      ]}
    >
      Download CSV
    </ButtonDropdown>
  );
}
