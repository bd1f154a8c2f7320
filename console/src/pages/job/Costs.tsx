import Box from "@cloudscape-design/components/box";
import ExpandableSection from "@cloudscape-design/components/expandable-section";
import Header from "@cloudscape-design/components/header";
import SpaceBetween from "@cloudscape-design/components/space-between";
import Table from "@cloudscape-design/components/table";
import { useQuery } from "@tanstack/react-query";

import { Failure } from "../../components/Failure";
import { Time } from "../../components/Time";
import { amount, count, dollars, hours, percent } from "../../format";
import { jobReportQuery, ledgerQuery } from "./queries";

/** The report of one job, then the lines of its ledger that it is the sum of. */
export default function Costs({ jobId }: { jobId: string }) {
  const report = useQuery(jobReportQuery(jobId));
  const ledger = useQuery(ledgerQuery(jobId));
  if (report.error && !report.data) return <Failure problem={report.error} onRetry={() => void report.refetch()} />;
  return (
    <SpaceBetween size="l">
      <Table
        items={report.data?.metrics ?? []}
        loading={report.isPending}
        loadingText="Adding up"
        trackBy="name"
        contentDensity="compact"
        wrapLines
        ariaLabels={{ tableLabel: "What the job cost and saved" }}
        header={<Header description={report.data?.remark}>What it cost and saved</Header>}
        columnDefinitions={[
          { id: "title", header: "Figure", cell: (one) => one.title, isRowHeader: true, width: 320 },
          { id: "value", header: "Value", cell: (one) => <b className="figure">{amount(one.value, one.unit)}</b> },
          {
            id: "naive",
            header: "As MMBatch counts it",
            cell: (one) => (one.naive ? <span className="figure">{amount(one.naive.value, one.unit)}</span> : "alike"),
          },
          { id: "estimated", header: "Estimated", cell: (one) => percent(one.estimated_share) },
          { id: "formula", header: "How it is counted", cell: (one) => one.formula, minWidth: 280 },
        ]}
      />
      {ledger.error && !ledger.data && <Failure problem={ledger.error} onRetry={() => void ledger.refetch()} />}
      <Table
        items={ledger.data?.items ?? []}
        loading={ledger.isPending}
        loadingText="Loading the ledger"
        trackBy="key"
        contentDensity="compact"
        wrapLines
        ariaLabels={{ tableLabel: "Lines of the job's ledger" }}
        empty={<Box textAlign="center">Nothing has been booked yet.</Box>}
        header={
          <Header counter={ledger.data && `(${count(ledger.data.items.length)}${ledger.data.next ? "+" : ""})`}>
            Ledger
          </Header>
        }
        columnDefinitions={[
          { id: "at", header: "When", cell: (one) => <Time at={one.at} />, width: 190 },
          { id: "kind", header: "Line", cell: (one) => one.kind, isRowHeader: true },
          { id: "figures", header: "Adds", cell: (one) => <Figures of={one.figures} />, minWidth: 200 },
          {
            id: "detail",
            header: "Worked out of",
            minWidth: 260,
            cell: (one) => (
              <ExpandableSection headerText={String(one.detail.formula ?? "Details")} variant="footer">
                <Details of={one.detail} />
              </ExpandableSection>
            ),
          },
        ]}
      />
    </SpaceBetween>
  );
}

function Figures({ of }: { of: Record<string, number> }) {
  return (
    <ul className="plain-list">
      {Object.entries(of).map(([name, value]) => (
        <li key={name}>
          {words(name)} <span className="figure">{shown(name, value)}</span>
        </li>
      ))}
    </ul>
  );
}

function Details({ of }: { of: Record<string, string | number | null> }) {
  return (
    <ul className="plain-list">
      {Object.entries(of)
        .filter(([name]) => name !== "formula")
        .map(([name, value]) => (
          <li key={name}>
            {words(name)}: {String(value)}
          </li>
        ))}
    </ul>
  );
}

const words = (name: string): string => name.replace(/_(micros|ms)$/, "").replaceAll("_", " ");

/** Ledger lines hold whole micro-dollars, milliseconds and counts; the name says which. */
export function shown(name: string, value: number): string {
  if (name.endsWith("_micros")) return dollars(value / 1e6);
  return name.endsWith("_ms") ? hours(value / 3_600_000) : count(value);
}
