/** One chart. Its code weighs as much as the rest of the page, which is shown before it is there. */
import Box from "@cloudscape-design/components/box";
import MixedLineBarChart, { type MixedLineBarChartProps } from "@cloudscape-design/components/mixed-line-bar-chart";

import type { Schema } from "../../api/client";
import { amount } from "../../format";
import { summed, togetherOf } from "./points";

export type Line = { metric: string; title: string; color: string; type: "line" | "bar" };

type Props = { title: string; lines: Line[]; trends: Schema<"TrendsView"> | undefined };

export default function Chart({ title, lines, trends }: Props) {
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
