/** How figures went over time. */
import Container from "@cloudscape-design/components/container";
import Grid from "@cloudscape-design/components/grid";
import Header from "@cloudscape-design/components/header";
import { useQuery } from "@tanstack/react-query";
import { lazy, Suspense } from "react";

import type { Schema } from "../../api/client";
import { Failure } from "../../components/Failure";
import type { Line } from "./Chart";
import { togetherOf } from "./points";
import { trendsQuery } from "./queries";
import type { DashboardSearch } from "./search";

/** Drawn after what stands above it. The router asks for this code together with the page's. */
const Chart = lazy(() => import("./Chart"));

const GREEN = "#1d8102";
const RED = "#d13212";
const BLUE = "#3184c2";
const PURPLE = "#8456ce";

const CHARTS: { title: string; lines: Line[] }[] = [
  { title: "Spot protections", lines: [{ metric: "spot_protections", title: "Protections", color: PURPLE }] },
  {
    title: "Jobs",
    lines: [
      { metric: "total_jobs", title: "Begun", color: BLUE },
      { metric: "jobs_succeeded", title: "Succeeded", color: GREEN },
      { metric: "jobs_failed", title: "Failed", color: RED },
    ],
  },
  { title: "Cost", lines: [{ metric: "total_cost", title: "Total cost", color: BLUE }] },
  {
    title: "Savings",
    lines: [
      { metric: "spot_savings_cost", title: "Spot savings", color: GREEN },
      { metric: "net_savings", title: "Net of what protection cost", color: PURPLE },
    ],
  },
];

const by = ({ at, level }: Schema<"TrendsView">): string => {
  const together = togetherOf(at.length);
  const one = level === "day" ? "day of UTC" : level;
  return together > 1 ? `${together} ${level}s` : one;
};

export function Charts({ search }: { search: DashboardSearch }) {
  const { data, error, refetch } = useQuery(trendsQuery(search));
  if (error && !data) return <Failure problem={error} onRetry={() => void refetch()} />;
  return (
    <Grid gridDefinition={CHARTS.map(() => ({ colspan: { default: 12, s: 6 } }))}>
      {CHARTS.map((chart) => (
        <Container
          key={chart.title}
          fitHeight
          header={
            <Header variant="h2" description={data && `Per ${by(data)}${search.range === "all" ? ", the last 90 days" : ""}`}>
              {chart.title}
            </Header>
          }
        >
          <Suspense fallback={<div className="chart-waiting" />}>
            <Chart title={chart.title} lines={chart.lines} trends={data} />
          </Suspense>
        </Container>
      ))}
    </Grid>
  );
}
