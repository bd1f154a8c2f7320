import Header from "@cloudscape-design/components/header";
import Table from "@cloudscape-design/components/table";

import type { Schema } from "../../api/client";
import { Prose } from "../../components/Prose";
import { RouterLink } from "../../components/RouterLink";
import { count } from "../../format";

type Reason = Schema<"UnprotectedView">;

/** Jobs that a reclaim would cost their work, by reason. Nothing where there are none. */
export function Unprotected({ reasons }: { reasons: Reason[] }) {
  if (reasons.length === 0) return null;
  return (
    <Table<Reason>
      items={reasons}
      trackBy="reason"
      contentDensity="compact"
      wrapLines
      ariaLabels={{ tableLabel: "Jobs without protection" }}
      header={
        <Header
          variant="h2"
          actions={
            <RouterLink to="/jobs" search={{ unprotected: true }} fontSize="body-m">
              Show them
            </RouterLink>
          }
          counter={`(${count(reasons.reduce((sum, one) => sum + one.jobs, 0))})`}
          description="Jobs of this span that a reclaim would have cost, or would cost, all their work."
        >
          Without protection
        </Header>
      }
      columnDefinitions={[
        { id: "reason", header: "Why", isRowHeader: true, minWidth: 260, cell: (one) => <Prose text={one.reason} /> },
        { id: "jobs", header: "Jobs", cell: (one) => <span className="figure">{count(one.jobs)}</span> },
        { id: "running", header: "Not finished", minWidth: 125, cell: (one) => <span className="figure">{count(one.running)}</span> },
        {
          id: "some",
          header: "Some of them",
          minWidth: 200,
          cell: (one) =>
            one.job_ids.map((id, place) => (
              <span key={id}>
                {place > 0 && ", "}
                <RouterLink to="/jobs/$jobId" params={{ jobId: id }}>
                  {id.slice(0, 8)}
                </RouterLink>
              </span>
            )),
        },
      ]}
    />
  );
}
