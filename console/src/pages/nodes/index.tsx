/** Worker nodes, live and ended: notices, jobs, cost; and the CSV. */
import Box from "@cloudscape-design/components/box";
import ButtonDropdown from "@cloudscape-design/components/button-dropdown";
import Header from "@cloudscape-design/components/header";
import SegmentedControl from "@cloudscape-design/components/segmented-control";
import SpaceBetween from "@cloudscape-design/components/space-between";
import Table from "@cloudscape-design/components/table";
import TextFilter from "@cloudscape-design/components/text-filter";
import { useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";

import { useLive } from "../../api/live";
import { Failure } from "../../components/Failure";
import { ShowMore } from "../../components/ShowMore";
import { useGathered, useTitle, useTyped } from "../../hooks";
import { COLUMNS } from "./columns";
import { nodesQuery } from "./queries";
import { csvAddress, type NodeOrder, type NodesSearch, type Show } from "./search";

const TYPING_MS = 250;
const GATHER_MS = 500;

export default function NodesPage() {
  useTitle("Worker nodes");
  const search = useSearch({ from: "/shell/nodes" });
  const navigate = useNavigate();
  const go = (change: NodesSearch) => void navigate({ to: "/nodes", search: { ...search, ...change }, replace: true });
  const { data, error, refetch, isPending, hasNextPage, isFetchingNextPage, fetchNextPage } = useInfiniteQuery(
    nodesQuery(search),
  );
  const client = useQueryClient();
  const anew = useGathered(() => void client.invalidateQueries({ queryKey: ["nodes"] }), GATHER_MS);
  useLive((change) => change.kind === "node" && anew(), { onReset: anew });

  const nodes = data?.pages.flatMap((page) => page.items) ?? [];
  const sort = search.sort ?? "-first_seen_at";
  const filtered = Boolean(search.q || search.show);
  return (
    <SpaceBetween size="m">
      {error && <Failure problem={error} onRetry={() => void refetch()} />}
      <Table
        variant="full-page"
        stickyHeader
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
          <SpaceBetween size="s" direction="horizontal">
            <Find text={search.q ?? ""} onText={(q) => go({ q })} />
            <SegmentedControl
              label="Which nodes"
              selectedId={search.show ?? "all"}
              options={[
                { id: "all", text: "All" },
                { id: "live", text: "Live" },
                { id: "ended", text: "Ended" },
              ]}
              onChange={({ detail }) =>
                go({ show: detail.selectedId === "all" ? undefined : (detail.selectedId as Show) })
              }
            />
          </SpaceBetween>
        }
        empty={
          <Box textAlign="center" padding="l" color="inherit">
            {filtered
              ? "No node is like this."
              : "No node has been seen yet. A node appears here when its agent starts: see docs/installation, or try `perdure demo` on this machine."}
          </Box>
        }
        footer={hasNextPage && <ShowMore loading={isFetchingNextPage} onMore={() => void fetchNextPage()} />}
      />
    </SpaceBetween>
  );
}

/** What is typed goes into the address when it has stood still. */
function Find({ text, onText }: { text: string; onText: (text: string | undefined) => void }) {
  const [typed, type] = useTyped(text, (next) => onText(next || undefined), TYPING_MS);
  return (
    <TextFilter
      filteringText={typed}
      filteringPlaceholder="Find by id, type, zone"
      filteringAriaLabel="Find nodes"
      onChange={({ detail }) => type(detail.filteringText)}
    />
  );
}

function Download({ search }: { search: NodesSearch }) {
  const filtered = Boolean(search.q);
  return (
    <ButtonDropdown
      items={[
        ...(filtered
          ? [{ id: "found", text: `Finished nodes with “${search.q}”`, href: csvAddress(search, "gone") }]
          : []),
        { id: "gone", text: "All finished nodes", href: csvAddress({}, "gone") },
        { id: "all", text: "All nodes, live ones too", href: csvAddress({}, "all") },
      ]}
    >
      Download CSV
    </ButtonDropdown>
  );
}
