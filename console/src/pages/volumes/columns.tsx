import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import type { TableProps } from "@cloudscape-design/components/table";
import type { ReactNode } from "react";

import type { Schema } from "../../api/client";
import { JobStatus } from "../../components/JobStatus";
import { RouterLink } from "../../components/RouterLink";
import { Time } from "../../components/Time";
import { count, duration, localTime } from "../../format";
import { Money } from "./Money";

type Volume = Schema<"ExistingVolumeView">;

export type { Volume };

/** `onDelete`: for those who may. */
export const columnsFor = (onDelete?: (volume: Volume) => void): TableProps.ColumnDefinition<Volume>[] => [
  {
    id: "volume",
    header: "Volume",
    isRowHeader: true,
    minWidth: 190,
    cell: (volume) => (
      <>
        {volume.volume_id}
        <Small>{`${count(volume.size_gib)} GiB ${volume.volume_type} in ${volume.zone}`}</Small>
      </>
    ),
  },
  {
    id: "job",
    header: "Whose",
    minWidth: 212,
    cell: (volume) => (
      <>
        <RouterLink to="/jobs/$jobId" params={{ jobId: volume.job_id }}>
          {volume.job_name || volume.job_id}
        </RouterLink>
        <div>
          <JobStatus state={volume.job_state} />
        </div>
      </>
    ),
  },
  {
    id: "age",
    header: "Age",
    minWidth: 62,
    cell: (volume) => (
      <time className="figure" dateTime={volume.created_at} title={`Made ${localTime(new Date(volume.created_at))}`}>
        {inOneUnit(volume.age_seconds)}
      </time>
    ),
  },
  {
    id: "month",
    header: "A month",
    minWidth: 98,
    cell: (volume) => <Money usd={volume.usd_per_month} estimated={volume.estimated} />,
  },
  {
    id: "cost",
    header: "So far",
    minWidth: 80,
    cell: (volume) => <Money usd={volume.cost_usd} estimated={volume.estimated} />,
  },
  {
    id: "until",
    header: "Kept until",
    minWidth: 145,
    cell: (volume) =>
      volume.kept_since === null ? (
        "its job ends"
      ) : (
        <>
          <Time at={volume.kept_until} brief missing="somebody deletes it" />
          <Small>
            its job ended <Time at={volume.kept_since} brief />
          </Small>
          {onDelete && (
            <div>
              <Button variant="inline-link" ariaLabel={`Delete now: ${volume.volume_id}`} onClick={() => onDelete(volume)}>
                Delete now
              </Button>
            </div>
          )}
        </>
      ),
  },
  {
    id: "node",
    header: "Attached to",
    minWidth: 188,
    cell: (volume) =>
      volume.instance_id ? (
        <RouterLink to="/nodes/$instanceId" params={{ instanceId: volume.instance_id }}>
          {volume.instance_id}
        </RouterLink>
      ) : (
        "no node"
      ),
  },
];

/** `3 h 5 min` → `3 h`: the column has room for one unit, and the title says when it was made. */
const inOneUnit = (seconds: number): string => duration(seconds).split(" ").slice(0, 2).join(" ");

function Small({ children }: { children: ReactNode }) {
  return (
    <Box variant="small" display="block" color="text-body-secondary">
      {children}
    </Box>
  );
}
