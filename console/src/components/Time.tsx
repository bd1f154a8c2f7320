import { ago, briefTime, localTime, utcTime } from "../format";

type Props = { at: string | null | undefined; relative?: Date; brief?: boolean; missing?: string };

/**
 * An instant in local time, or (`relative`: now) how long ago it was. UTC is in the title, and in `datetime`.
 * `brief`: for lists, to the minute.
 */
export function Time({ at, relative, brief = false, missing = "–" }: Props) {
  if (!at) return <>{missing}</>;
  const instant = new Date(at);
  const whole = relative === undefined && !brief;
  return (
    <time dateTime={at} title={whole ? utcTime(instant) : `${localTime(instant)} · ${utcTime(instant)}`}>
      {relative ? ago(instant, relative) : brief ? briefTime(instant, new Date()) : localTime(instant)}
    </time>
  );
}
