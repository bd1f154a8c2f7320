/** One chart. Its code weighs as much as the rest of the page, which is shown before it is there. */
import Box from "@cloudscape-design/components/box";
import LineChart from "@cloudscape-design/components/line-chart";

import type { Schema } from "../../api/client";
import { amount } from "../../format";
import { summed, togetherOf } from "./points";

export type Line = { metric: string; title: string; color: string };

/** All charts have as much room at their left, so that all mark the same instants at the same places. */
const WIDEST = 8;
const FIGURE_SPACE = "\u2007";

type Props = { title: string; lines: Line[]; trends: Schema<"TrendsView"> | undefined };

export default function Chart({ title, lines, trends }: Props) {
  const named = new Map(trends?.trends.map((one) => [one.metric, one]));
  const times = trends?.at.map((one) => new Date(one)) ?? [];
  const unit = named.get(lines[0]!.metric)?.unit ?? "count";
  const format = (value: number) => amount(value, unit);
  const together = togetherOf(times.length);
  const begin = times.length % together;
  const at = times.filter((_, place) => place >= begin && (place - begin) % together === 0);
  const series = lines.map(({ metric, title: name, color }) => ({
    title: name,
    type: "line" as const,
    color,
    valueFormatter: format,
    data: summed(named.get(metric)?.values ?? [], together).map((y, place) => ({ x: at[place]!, y })),
  }));
  const all = lines.flatMap(({ metric }) => summed(named.get(metric)?.values ?? [], together));
  const [least, most] = [Math.min(0, ...all), Math.max(...all, 0)];
  const empty = least === 0 && most === 0;
  const step = trends?.level ?? "hour";
  return (
    <LineChart
      series={empty ? [] : series}
      statusType={trends ? "finished" : "loading"}
      loadingText="Loading"
      height={190}
      hideFilter
      hideLegend={lines.length === 1}
      ariaLabel={`${title} over time`}
      xScaleType="time"
      xDomain={at.length > 1 ? [at[0]!, at.at(-1)!] : undefined}
      yDomain={empty ? undefined : [least * 1.05, most * 1.05]}
      i18nStrings={{
        xTickFormatter: (value: Date) => tick(value, step),
        yTickFormatter: (value: number) => (unit === "count" && !Number.isInteger(value) ? "" : format(value)).padStart(WIDEST, FIGURE_SPACE),
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
  const day = (timeZone?: string) => at.toLocaleDateString(undefined, { month: "short", day: "numeric", timeZone });
  if (level === "day") return day("UTC"); // whose days are counted
  const hour = at.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  return level === "minute" ? hour : `${day()}\n${hour}`;
}
