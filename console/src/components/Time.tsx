import { ago, localTime, utcTime } from "../format";

type Props = { at: string | null | undefined; relative?: Date; missing?: string };

/** An instant in local time, or (`relative`: now) how long ago it was. UTC is in the title, and in `datetime`. */
export function Time({ at, relative, missing = "–" }: Props) {
  if (!at) return <>{missing}</>;
  const instant = new Date(at);
  return (
    <time dateTime={at} title={relative ? `${localTime(instant)} · ${utcTime(instant)}` : utcTime(instant)}>
      {relative ? ago(instant, relative) : localTime(instant)}
    </time>
  );
}
