import Box from "@cloudscape-design/components/box";
import ColumnLayout from "@cloudscape-design/components/column-layout";
import Container from "@cloudscape-design/components/container";
import Header from "@cloudscape-design/components/header";
import Popover from "@cloudscape-design/components/popover";
import SpaceBetween from "@cloudscape-design/components/space-between";
import Tooltip from "@cloudscape-design/components/tooltip";
import { useRef, useState } from "react";

import type { Schema } from "../../api/client";
import { RouterLink } from "../../components/RouterLink";
import { amount, count, percent, utcMinute } from "../../format";

type Report = Schema<"ReportView">;
type Metric = Schema<"MetricView">;

/** The seven figures of the reference product's dashboard, in its order; then ours. */
const SEVEN = [
  "total_jobs",
  "spot_protections",
  "job_cpu_hours",
  "instance_cost",
  "spot_savings_cost",
  "spot_savings_cpu_hours",
  "on_demand_savings_cost",
];
const OURS = ["net_savings", "lost_time", "checkpoint_success_rate", "restore_success_rate"];

export function Figures({ report, running }: { report: Report; running: number | undefined }) {
  const named = new Map(report.metrics.map((one) => [one.name, one]));
  const of = (names: string[]) => names.flatMap((name) => named.get(name) ?? []);
  return (
    <Container
      header={
        <Header variant="h2" description={`${counted(report.span)} ${report.remark}`}>
          Figures
        </Header>
      }
    >
      <SpaceBetween size="l">
        <ColumnLayout columns={4} variant="text-grid" minColumnWidth={150}>
          <Running count={running} failed={named.get("jobs_failed")?.value ?? 0} span={report.span} />
          {of(SEVEN).map((one) => (
            <Figure key={one.name} metric={one} report={report} />
          ))}
        </ColumnLayout>
        <ColumnLayout columns={4} variant="text-grid" minColumnWidth={150}>
          {of(OURS).map((one) => (
            <Figure key={one.name} metric={one} report={report} />
          ))}
        </ColumnLayout>
      </SpaceBetween>
    </Container>
  );
}

/** The span in words, in UTC as AWS bills: a figure that somebody else is shown must say what it counts. */
function counted({ start, end }: Report["span"]): string {
  const of = (at: string) => `${utcMinute(new Date(at))} UTC`;
  if (!start) return end ? `Counted until ${of(end)}.` : "Counted from the beginning until now.";
  return `Counted from ${of(start)} until ${end ? of(end) : "now"}.`;
}

type RunningProps = { count: number | undefined; failed: number; span: Report["span"] };

/** How many go on, and the way to those that failed: whoever is called at night looks for these. */
function Running({ count: running, failed, span }: RunningProps) {
  const finished = { finished_after: span.start ?? undefined, finished_before: span.end ?? undefined };
  return (
    <div>
      <Box variant="awsui-key-label">Not finished now</Box>
      <Box fontSize="heading-xl" fontWeight="bold">
        <RouterLink to="/jobs" search={{ status: ["unfinished"] }} fontSize="heading-xl">
          {count(running)}
        </RouterLink>
      </Box>
      {failed > 0 && (
        <RouterLink to="/jobs" search={{ status: ["Failed"], ...finished }} fontSize="body-s">
          {count(failed)} failed in this span
        </RouterLink>
      )}
    </div>
  );
}

/** One figure. Its formula is shown while the pointer or the focus is on its name, and stays after a click. */
function Figure({ metric, report }: { metric: Metric; report: Report }) {
  const [near, setNear] = useState(false);
  const place = useRef<HTMLDivElement>(null);
  return (
    <div>
      <div
        ref={place}
        className="figure-name"
        onPointerEnter={() => setNear(true)}
        onPointerLeave={() => setNear(false)}
        onPointerDown={() => setNear(false)}
      >
        <Popover header={metric.title} content={<Explained metric={metric} report={report} />} size="large" triggerType="text">
          <Box variant="awsui-key-label" tagOverride="span">
            {metric.title}
          </Box>
        </Popover>
      </div>
      {near && (
        <Tooltip
          content={<Explained metric={metric} report={report} />}
          getTrack={() => place.current}
          onEscape={() => setNear(false)}
        />
      )}
      <Box fontSize="heading-xl" fontWeight="bold">
        <span className="figure" data-testid={metric.name}>
          {amount(metric.value, metric.unit)}
        </span>
      </Box>
      {metric.naive && metric.naive.exact !== metric.exact && (
        <Box variant="small" color="text-body-secondary">
          As MMBatch counts it: <span className="figure">{amount(metric.naive.value, metric.unit)}</span>
        </Box>
      )}
    </div>
  );
}

function Explained({ metric, report }: { metric: Metric; report: Report }) {
  const named = new Map(report.metrics.map((one) => [one.name, one.value]));
  const [attempts, well] = [metric.name.replace("success_rate", "attempts"), metric.name.replace("success_rate", "successes")];
  return (
    <SpaceBetween size="xxs">
      <span>{metric.formula}</span>
      {metric.unit === "share" && named.has(attempts) && (
        <span>
          {count(named.get(well))} of {count(named.get(attempts))}.
        </span>
      )}
      {metric.estimated_share !== null && <span>Rests on estimated prices: {percent(metric.estimated_share)}.</span>}
      {metric.naive && (
        <span>
          MMBatch: {amount(metric.naive.value, metric.unit)}. {metric.naive.formula}
        </span>
      )}
    </SpaceBetween>
  );
}
