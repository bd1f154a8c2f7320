import Link from "@cloudscape-design/components/link";
import StatusIndicator from "@cloudscape-design/components/status-indicator";
import type { TableProps } from "@cloudscape-design/components/table";

import type { Schema } from "../../api/client";
import { Time } from "../../components/Time";
import type { AuditSearch } from "./search";
import { told } from "./told";

type Line = Schema<"AuditLineView">;

/** `only` narrows the list to what was clicked. */
export function columns(only: (change: AuditSearch) => void): TableProps.ColumnDefinition<Line>[] {
  return [
    { id: "at", header: "When", minWidth: 180, cell: (line) => <Time at={line.at} /> },
    {
      id: "who",
      header: "Who",
      minWidth: 110,
      isRowHeader: true,
      cell: (line) =>
        line.who ? (
          <Link onFollow={() => only({ who: line.who })} ariaLabel={`Only lines of ${line.who}`}>
            {line.who}
          </Link>
        ) : (
          "nobody signed in"
        ),
    },
    {
      id: "action",
      header: "Action",
      minWidth: 225,
      cell: (line) => (
        <Link onFollow={() => only({ action: line.action })} ariaLabel={`Only ${line.action}`}>
          {line.action}
        </Link>
      ),
    },
    { id: "outcome", header: "Outcome", minWidth: 150, cell: (line) => <Outcome status={line.outcome} /> },
    { id: "detail", header: "Details", minWidth: 215, cell: (line) => told(line.detail) || "–" },
    { id: "via", header: "By", minWidth: 90, cell: (line) => line.via || "–" },
    { id: "target", header: "Path", minWidth: 220, cell: (line) => line.target || "–" },
    { id: "address", header: "From", minWidth: 120, cell: (line) => line.address || "–" },
  ];
}

function Outcome({ status }: { status: number }) {
  if (status < 400) return <StatusIndicator type="success">done</StatusIndicator>;
  return <StatusIndicator wrapText={false} type={status < 500 ? "error" : "warning"}>{`${REFUSED[status] ?? "refused"} (${status})`}</StatusIndicator>;
}

const REFUSED: Record<number, string> = {
  401: "not signed in",
  403: "not allowed",
  412: "out of date",
  422: "not usable",
  429: "too often",
  500: "failed",
  503: "not possible then",
};
