/** The dashboard: what needs a person now, the seven figures and how honest they are, over time, and by queue. */
import ContentLayout from "@cloudscape-design/components/content-layout";
import Grid from "@cloudscape-design/components/grid";
import Header from "@cloudscape-design/components/header";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useSearch } from "@tanstack/react-router";

import { useLive } from "../../api/live";
import { Failure } from "../../components/Failure";
import { PageWaiting } from "../../components/PageWaiting";
import { useGathered, useTitle } from "../../hooks";
import { Attention } from "./Attention";
import { Charts } from "./Charts";
import { Figures } from "./Figures";
import { Newest } from "./Newest";
import { NothingYet } from "./NothingYet";
import { Queues } from "./Queues";
import { newestQuery, queuesQuery, reportQuery } from "./queries";
import { Range } from "./Range";
import { Unprotected } from "./Unprotected";

const SOON_MS = 1000;
const LATER_MS = 5000;

export default function Dashboard() {
  const search = useSearch({ from: "/shell/" });
  const client = useQueryClient();
  const report = useQuery(reportQuery(search));
  const queues = useQuery(queuesQuery(search));
  const newest = useQuery(newestQuery);
  useTitle("");

  // Events and alerts at once; sums, which cost more and change little, a little later.
  const soon = useGathered(() => {
    void client.invalidateQueries({ queryKey: ["dashboard", "events"] });
    void client.invalidateQueries({ queryKey: ["dashboard", "alerts"] });
    void client.invalidateQueries({ queryKey: ["dashboard", "queues"] });
  }, SOON_MS);
  const later = useGathered(() => void client.invalidateQueries({ queryKey: ["dashboard"] }), LATER_MS);
  const tell = () => {
    soon();
    later();
  };
  useLive(tell, { onReset: tell });

  if (report.error && !report.data)
    return <Failure problem={report.error} onRetry={() => void report.refetch()} />;
  if (!report.data || !newest.data) return <PageWaiting />;
  if (newest.data.items.length === 0 && queues.data?.length === 0) return <NothingYet />;
  return (
    <ContentLayout
      header={
        <Header variant="h1" actions={<Range />} description="What ran, what reclaims would have cost, and what protection saved.">
          Dashboard
        </Header>
      }
    >
      <SpaceBetween size="l">
        <Attention />
        <Figures report={report.data} running={queues.data?.reduce((sum, one) => sum + one.jobs_running, 0)} />
        <Unprotected reasons={report.data.unprotected} />
        <Charts search={search} />
        <Grid gridDefinition={[{ colspan: { default: 12, m: 7 } }, { colspan: { default: 12, m: 5 } }]}>
          <Queues queues={queues.data} problem={queues.error} />
          <Newest />
        </Grid>
      </SpaceBetween>
    </ContentLayout>
  );
}
