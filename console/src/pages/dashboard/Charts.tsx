import Box from "@cloudscape-design/components/box";
import Container from "@cloudscape-design/components/container";
import Grid from "@cloudscape-design/components/grid";
import Header from "@cloudscape-design/components/header";
import MixedLineBarChart, { type MixedLineBarChartProps } from "@cloudscape-design/components/mixed-line-bar-chart";
import { useQuery } from "@tanstack/react-query";

import type { Schema } from "../../api/client";
import { Failure } from "../../components/Failure";
import { amount } from "../../format";
import { trendsQuery } from "./queries";
import type { DashboardSearch } from "./search";

type Trends = Schema<"TrendsView">;
type Shape = "line" | "bar";
type Line = { metric: string; title: string; color: string; type: Shape };

const GREEN = "#1d8102";
const RED = "#d13212";
const BLUE = "#3184c2";
const PURPLE = "#8456ce";

const CHARTS: { title: string; lines: Line[] }[] = [
  { title: "Spot protections", lines: [{ metric: "spot_protections", title: "Protections", color: PURPLE, type: "bar" }] },
  {
    title: "Jobs",
    lines: [
      { metric: "total_jobs", title: "Begun", color: BLUE, type: "line" },
      { metric: "jobs_succeeded", title: "Succeeded", color: GREEN, type: "line" },
      { metric: "jobs_failed", title: "Failed", color: RED, type: "line" },
    ],
  },
  { title: "Cost", lines: [{ metric: "total_cost", title: "Total cost", color: BLUE, type: "line" }] },
  {
    title: "Savings",
    lines: [
      { metric: "spot_savings_cost", title: "Spot savings", color: GREEN, type: "line" },
      { metric: "net_savings", title: "Net of all that protection cost", color: PURPLE, type: "line" },
    ],
  },
];

/** More bars would be narrower than the gaps between them, and more points of a line a mere zigzag. */
const MOST_POINTS = 32;
const togetherOf = (points: number): number => Math.max(1, Math.ceil(points / MOST_POINTS));

/** Sums of so many values each. The last one ends with the values; what is too few for a first one is left out. */
export function summed(values: readonly (number | null)[], together: number): number[] {
  const begin = values.length % together;
  const sums = Array.from({ length: Math.floor(values.length / together) }, () => 0);
  values.slice(begin).forEach((value, place) => (sums[Math.floor(place / together)]! += value ?? 0));
  return sums;
}

const by = ({ at, level }: Trends): string => {
  const together = togetherOf(at.length);
  return together > 1 ? `${together} ${level}s` : level;
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
            <Header variant="h2" description={data && `By ${by(data)}${search.range === "all" ? ", the last 90 days" : ""}`}>
              {chart.title}
            </Header>
          }
        >
          <Chart title={chart.title} lines={chart.lines} trends={data} />
        </Container>
      ))}
    </Grid>
  );
}

function Chart({ title, lines, trends }: { title: string; lines: Line[]; trends: Trends | undefined }) {
  const named = new Map(trends?.trends.map((one) => [one.metric, one]));
  const times = trends?.at.map((one) => new Date(one)) ?? [];
  const unit = named.get(lines[0]!.metric)?.unit ?? "count";
  const format = (value: number) => amount(value, unit);
  const asBars = lines.some((one) => one.type === "bar");
  const together = togetherOf(times.length);
  const begin = times.length % together;
  const at = times.filter((_, place) => place >= begin && (place - begin) % together === 0);
  const series = lines.map(({ metric, title: name, color, type }) => ({
    title: name,
    type,
    color,
    valueFormatter: format,
    data: summed(named.get(metric)?.values ?? [], together).map((y, place) => ({ x: at[place]!, y })),
  })) as MixedLineBarChartProps<Date>["series"];
  const all = lines.flatMap(({ metric }) => summed(named.get(metric)?.values ?? [], together));
  const [least, most] = [Math.min(0, ...all), Math.max(...all, 0)];
  const empty = least === 0 && most === 0;
  const step = trends?.level ?? "hour";
  return (
    <MixedLineBarChart
      series={empty ? [] : series}
      statusType={trends ? "finished" : "loading"}
      loadingText="Loading"
      height={190}
      hideFilter
      hideLegend={lines.length === 1}
      ariaLabel={`${title} over time`}
      xScaleType={asBars ? "categorical" : "time"}
      xDomain={asBars ? at : at.length > 1 ? [at[0]!, at.at(-1)!] : undefined}
      yDomain={empty ? undefined : [least, most * 1.05 || 1]}
      i18nStrings={{
        xTickFormatter: (value: Date) => tick(value, step),
        yTickFormatter: (value: number) => (unit === "count" && !Number.isInteger(value) ? "" : format(value)),
        chartAriaRoleDescription: "chart",
        xAxisAriaRoleDescription: "time",
        yAxisAriaRoleDescription: "amount",
      }}
      empty={
        <Box textAlign="center" color="text-body-secondary">
          Nothing in this span of time.
        </Box>
      }
    />
  );
}

function tick(at: Date, level: string): string {
  const day = at.toLocaleDateString(undefined, { month: "short", day: "numeric" });
  if (level === "day") return day;
  const hour = at.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  return level === "minute" ? hour : `${day}\n${hour}`;
}
