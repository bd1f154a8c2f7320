import Table from "@cloudscape-design/components/table";

import { Time } from "../../../components/Time";
import { duration } from "../../../format";
import { begin, end, WORDS, type LifeLine } from "./view";

/** What the picture shows, for those who cannot see it, or want to copy it. */
export function LifeLineTable({ line, now }: { line: LifeLine; now: number }) {
  const lanes = new Map(line.lanes.map((lane) => [lane.epoch, lane]));
  return (
    <Table
      variant="embedded"
      contentDensity="compact"
      items={line.stretches}
      trackBy={(one) => `${one.epoch}-${one.kind}-${one.started_at}`}
      ariaLabels={{ tableLabel: "What the job did, in order" }}
      columnDefinitions={[
        { id: "kind", header: "What", cell: (one) => WORDS[one.kind], isRowHeader: true },
        { id: "from", header: "From", cell: (one) => <Time at={one.started_at} /> },
        { id: "until", header: "Until", cell: (one) => <Time at={one.ended_at} missing="goes on" /> },
        { id: "length", header: "How long", cell: (one) => duration((end(one, now) - begin(one)) / 1000) },
        { id: "node", header: "Instance", cell: (one) => lanes.get(one.epoch)?.instance_id ?? "–" },
        { id: "zone", header: "Zone", cell: (one) => lanes.get(one.epoch)?.zone ?? "–" },
        { id: "attempt", header: "Attempt", cell: (one) => lanes.get(one.epoch)?.attempt ?? "–" },
        {
          id: "checkpoints",
          header: "Checkpoints in it",
          cell: (one) =>
            line.marks.filter(
              (mark) =>
                mark.kind !== "notice" &&
                mark.epoch === one.epoch &&
                Date.parse(mark.at) >= begin(one) &&
                Date.parse(mark.at) < end(one, now),
            ).length || "–",
        },
      ]}
    />
  );
}
