import Table from "@cloudscape-design/components/table";

import type { Schema } from "../../api/client";
import { nameOf, shown } from "./shown";

/** Settings before and after. */
export function Changes({ changes, label }: { changes: Schema<"FieldChangeView">[]; label: string }) {
  return (
    <Table
      variant="embedded"
      ariaLabels={{ tableLabel: label }}
      wrapLines
      items={changes}
      trackBy="field"
      columnDefinitions={[
        { id: "field", header: "Setting", width: "44%", cell: (one) => nameOf(one.field), isRowHeader: true },
        { id: "old", header: "Before", width: "28%", cell: (one) => shown(one.field, one.old) },
        { id: "new", header: "After", cell: (one) => <strong>{shown(one.field, one.new)}</strong> },
      ]}
    />
  );
}
