import { duration, localTime, utcTime } from "../format";

const MINUTE_MS = 60_000;

/** How much longer a checkpoint is kept; `until` null: until a person deletes it. */
export function KeptUntil({ until, now }: { until: string | null; now: number }) {
  if (until === null) return <>kept until somebody deletes it</>;
  const at = new Date(until);
  const left = Math.max(0, Math.floor((at.getTime() - now) / MINUTE_MS) * 60);
  return (
    <time dateTime={until} title={`Until ${localTime(at)} · ${utcTime(at)}`}>
      {left > 0 ? `kept for another ${duration(left)}` : "its time is over"}
    </time>
  );
}
