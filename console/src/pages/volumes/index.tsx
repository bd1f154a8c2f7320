/** The job volumes that exist: whose each is, and what it costs a month. */
import Box from "@cloudscape-design/components/box";
import ColumnLayout from "@cloudscape-design/components/column-layout";
import Container from "@cloudscape-design/components/container";
import ContentLayout from "@cloudscape-design/components/content-layout";
import Header from "@cloudscape-design/components/header";
import SegmentedControl from "@cloudscape-design/components/segmented-control";
import SpaceBetween from "@cloudscape-design/components/space-between";
import Table from "@cloudscape-design/components/table";
import { infiniteQueryOptions, keepPreviousData, useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";
import { useMemo, useState } from "react";

import { api, wanted, type Schema } from "../../api/client";
import { useIsAdmin } from "../../api/me";
import { useLive } from "../../api/live";
import { Failure } from "../../components/Failure";
import { ShowMore } from "../../components/ShowMore";
import { count, dollars } from "../../format";
import { useAsked, useGathered, useTitle } from "../../hooks";
import { columnsFor, type Volume } from "./columns";
import { DeleteVolume } from "./DeleteVolume";
import { Orphans } from "./Orphans";
import { validateVolumesSearch, type Whose } from "./search";

const PER_PAGE = 50;
const GATHER_MS = 1000;

const volumesQuery = (whose: Whose | undefined) =>
  infiniteQueryOptions({
    queryKey: ["volumes", whose],
    queryFn: ({ pageParam }) => {
      const kept = whose === undefined ? undefined : whose === "finished";
      return wanted(api.GET("/api/v1/volumes", { params: { query: { limit: PER_PAGE, cursor: pageParam, kept } } }));
    },
    initialPageParam: undefined as string | undefined,
    getNextPageParam: (last) => last.next ?? undefined,
    placeholderData: keepPreviousData,
  });

export default function VolumesPage() {
  useTitle("Volumes");
  const search = useSearch({ from: "/shell/volumes" });
  const { whose } = search;
  const wish = useAsked("/volumes", search, validateVolumesSearch);
  const navigate = useNavigate();
  const { data, error, refetch, isPending, hasNextPage, isFetchingNextPage, fetchNextPage } = useInfiniteQuery(
    volumesQuery(whose),
  );
  const client = useQueryClient();
  const anew = useGathered(() => void client.invalidateQueries({ queryKey: ["volumes"] }), GATHER_MS);
  useLive((change) => change.kind === "job" && anew(), { onReset: anew });
  const isAdmin = useIsAdmin();
  const [unwanted, setUnwanted] = useState<Volume | null>(null);
  const columns = useMemo(() => columnsFor(isAdmin ? setUnwanted : undefined), [isAdmin]);
  const volumes = data?.pages.flatMap((page) => page.items) ?? [];
  const totals = data?.pages[0]?.totals;

  return (
    <ContentLayout
      header={
        <Header
          variant="h1"
          description="The managed EBS volumes that exist now, as the jobs' workflows told of them, and what was found in AWS that no job owns."
        >
          Volumes
        </Header>
      }
    >
      <SpaceBetween size="l">
        {error && <Failure problem={error} onRetry={() => void refetch()} />}
        {totals && <Totals totals={totals} />}
        <Table
          items={volumes}
          contentDensity="compact"
          wrapLines
          trackBy={(volume) => `${volume.job_id} ${volume.volume_id}`}
          loading={isPending}
          loadingText="Reading the volumes"
          columnDefinitions={columns}
          ariaLabels={{ tableLabel: "Volumes" }}
          filter={
            <SegmentedControl
              label="Whose volumes"
              selectedId={wish.whose ?? "all"}
              options={[
                { id: "all", text: "All" },
                { id: "unfinished", text: "Of unfinished jobs" },
                { id: "finished", text: "Of finished jobs" },
              ]}
              onChange={({ detail }) => {
                const next = detail.selectedId === "all" ? undefined : (detail.selectedId as Whose);
                void navigate({ to: "/volumes", search: { whose: next }, replace: true });
              }}
            />
          }
          empty={
            <Box textAlign="center" padding="l" color="inherit">
              {whose ? "There is no such volume." : "No job volume exists now. A job gets one when it first starts, if the configuration wants one for it."}
            </Box>
          }
          footer={hasNextPage && <ShowMore loading={isFetchingNextPage} onMore={() => void fetchNextPage()} />}
        />
        <Orphans />
      </SpaceBetween>
      {unwanted && <DeleteVolume volume={unwanted} onClose={() => setUnwanted(null)} />}
    </ContentLayout>
  );
}

function Totals({ totals }: { totals: Schema<"VolumeTotals"> }) {
  const estimated = totals.estimated ? "; rests on an estimated price" : "";
  const unpriced = totals.unpriced > 0 ? `; ${count(totals.unpriced)} without a known price` : "";
  return (
    <Container>
      <ColumnLayout columns={3} variant="text-grid">
        <Figure label="Volumes" value={count(totals.volumes)} note={`${count(totals.size_gib)} GiB`} />
        <Figure label="Cost a month" value={dollars(totals.usd_per_month)} note={`if they stay${estimated}${unpriced}`} />
        <Figure
          label="Of finished jobs"
          value={count(totals.kept)}
          note={
            totals.kept > 0
              ? `${dollars(totals.kept_usd_per_month)} a month: kept to resume or examine them`
              : "nothing is kept"
          }
        />
      </ColumnLayout>
    </Container>
  );
}

function Figure({ label, value, note }: { label: string; value: string; note: string }) {
  return (
    <div>
      <Box variant="awsui-key-label">{label}</Box>
      <div>
        <Box variant="awsui-value-large">{value}</Box>
      </div>
      <Box variant="small" color="text-body-secondary">
        {note}
      </Box>
    </div>
  );
}
