/** The picture: a row per instance, bars for what the job did there, marks for checkpoints and notices. */
import { memo } from "react";

import { duration } from "../../../format";
import { begin, end, thinned, ticks, WORDS, type LifeLine, type Row, type Span, type Stretch } from "./view";

const ROW = 30;
const BAR = 16;
const HEAD = 22;
const AXIS = 26;

type Props = {
  line: LifeLine;
  rows: Row[];
  span: Span;
  now: number;
  width: number;
  labelWidth: number;
  chosen: Stretch | null;
  onChoose: (one: Stretch) => void;
};

type Placed = Row & { y: number };

function placed(rows: Row[]): { all: Placed[]; height: number } {
  let y = 0;
  const all = rows.map((row) => {
    if (row.firstOfZone) y += HEAD;
    const here = { ...row, y };
    y += ROW;
    return here;
  });
  return { all, height: y };
}

export const Picture = memo(function Picture(props: Props) {
  const { line, span, now, width, labelWidth, chosen, onChoose } = props;
  const { all, height } = placed(props.rows);
  const plot = Math.max(50, width - labelWidth - 8);
  const x = (at: number) => labelWidth + ((at - span.from) / (span.until - span.from)) * plot;
  const rowOf = new Map(all.flatMap((row) => row.epochs.map((epoch) => [epoch, row] as const)));
  const seen = line.stretches.filter((one) => end(one, now) >= span.from && begin(one) <= span.until);
  const marks = line.marks.filter((one) => Date.parse(one.at) >= span.from && Date.parse(one.at) <= span.until);
  const goesOn = line.stretches.some((one) => one.ended_at === null);
  return (
    <svg width={width} height={height + AXIS} aria-hidden="true" focusable="false">
      <defs>
        <clipPath id="life-line-plot">
          <rect x={labelWidth - 4} y={0} width={plot + 8} height={height + AXIS} />
        </clipPath>
        <pattern id="life-line-hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">
          <rect width="6" height="6" className="ll-lost" />
          <rect width="2.5" height="6" className="ll-hatch" />
        </pattern>
      </defs>
      {ticks(span, plot).map((tick) => (
        <g key={tick.at}>
          <line x1={x(tick.at)} x2={x(tick.at)} y1={0} y2={height + 4} className="ll-grid" />
          <text
            x={Math.min(x(tick.at), width - 2)}
            y={height + 18}
            textAnchor={x(tick.at) > width - 34 ? "end" : "middle"}
            className="ll-tick"
          >
            {tick.text}
          </text>
        </g>
      ))}
      {all.map((row) => (
        <Label key={row.instance + row.zone} row={row} width={width} labelWidth={labelWidth} />
      ))}
      <g clipPath="url(#life-line-plot)">
        {seen.map((one, place) => (
          <Bar
            key={`${one.epoch}-${one.kind}-${one.started_at}`}
            one={one}
            from={x(begin(one))}
            until={x(end(one, now))}
            y={rowOf.get(one.epoch)?.y ?? 0}
            before={place > 0 ? rowOf.get(seen[place - 1]!.epoch)?.y : undefined}
            now={now}
            chosen={one === chosen}
            onChoose={onChoose}
          />
        ))}
        {thinned(marks, x, 12).map((mark) => {
          const [at, y] = [x(Date.parse(mark.at)), (rowOf.get(mark.epoch)?.y ?? 0) + 3];
          const still = ((mark.stood_seconds ?? 0) * 1000 * plot) / (span.until - span.from);
          return mark.kind === "notice" ? (
            // Below the bar: checkpoints stand above it.
            <path key={`n${mark.at}`} d={`M${at} ${y + 4}v${BAR + 7}h-9l2.5-3.5-2.5-3.5h9`} className="ll-notice">
              <title>AWS's notice</title>
            </path>
          ) : (
            <g key={`c${mark.number}-${mark.at}`}>
              {still >= 1.5 && mark.kind !== "final" && (
                <rect x={at} y={y + 4} width={still} height={BAR} className="ll-freeze" />
              )}
              <path d={`M${at} ${y - 3}l4.5 4.5-4.5 4.5-4.5-4.5z`} className={`ll-mark ll-mark-${mark.kind}`}>
                <title>{`Checkpoint ${mark.number} (${mark.kind}): the job stood still for ${duration(mark.stood_seconds)}`}</title>
              </path>
            </g>
          );
        })}
        {seen.map((one) => (
          <Words
            key={`${one.epoch}-${one.kind}-${one.started_at}`}
            one={one}
            from={Math.max(x(begin(one)), labelWidth)}
            until={Math.min(x(end(one, now)), labelWidth + plot)}
            y={rowOf.get(one.epoch)?.y ?? 0}
            now={now}
          />
        ))}
        {goesOn && <line x1={x(now)} x2={x(now)} y1={0} y2={height + 4} className="ll-now" />}
      </g>
    </svg>
  );
});

function Label({ row, width, labelWidth }: { row: Placed; width: number; labelWidth: number }) {
  const short = labelWidth < 150 && row.instance.length > 10 ? `…${row.instance.slice(-7)}` : row.instance;
  return (
    <g>
      {row.firstOfZone && (
        <>
          <line x1={0} x2={width} y1={row.y - HEAD + 1} y2={row.y - HEAD + 1} className="ll-zone-line" />
          <text x={0} y={row.y - 6} className="ll-zone">
            {row.zone}
          </text>
        </>
      )}
      <text x={8} y={row.y + ROW / 2 + 4} className="ll-instance">
        {short}
        <title>{row.instance}</title>
      </text>
    </g>
  );
}

type BarProps = {
  one: Stretch;
  from: number;
  until: number;
  y: number;
  before: number | undefined;
  now: number;
  chosen: boolean;
  onChoose: (one: Stretch) => void;
};

function Bar({ one, from, until, y, before, now, chosen, onChoose }: BarProps) {
  const thin = one.kind === "wait";
  const width = Math.max(until - from, 2);
  const top = y + (ROW - BAR) / 2;
  const seconds = duration((end(one, now) - begin(one)) / 1000);
  return (
    <g onClick={() => onChoose(one)} onPointerEnter={() => onChoose(one)} className="ll-bar">
      <title>{`${WORDS[one.kind]}: ${seconds}`}</title>
      {before !== undefined && before !== y && (
        <line x1={from} x2={from} y1={Math.min(before, y) + ROW / 2} y2={Math.max(before, y) + ROW / 2} className="ll-way" />
      )}
      {thin ? (
        <>
          <rect x={from} y={top} width={width} height={BAR} className="ll-room" />
          <line x1={from} x2={from + width} y1={top + BAR / 2} y2={top + BAR / 2} className="ll-wait" />
        </>
      ) : (
        <rect
          x={from}
          y={top}
          width={width}
          height={BAR}
          className={one.kind === "lost" ? "ll-lost-bar" : `ll-${one.kind}`}
        />
      )}
      {chosen && <rect x={from - 1.5} y={top - 1.5} width={width + 3} height={BAR + 3} className="ll-chosen" />}
    </g>
  );
}

/** What a bar is and how long it lasts, as far as there is room. Drawn last, over the freezes. */
function Words({ one, from, until, y, now }: { one: Stretch; from: number; until: number; y: number; now: number }) {
  const seconds = duration((end(one, now) - begin(one)) / 1000);
  const named = `${WORDS[one.kind].split(/[ ,]/)[0]} ${seconds}`;
  const room = until - from;
  const text = room > named.length * 7 + 10 ? named : room > seconds.length * 5.6 + 4 ? seconds : "";
  const above = one.kind === "wait";
  return text ? (
    <text
      x={above ? (from + until) / 2 : from + (room < 46 ? 3 : 5)}
      y={y + ROW / 2 + (above ? -4 : 4)}
      textAnchor={above ? "middle" : "start"}
      className={`${above || one.kind === "lost" ? "ll-text-plain" : "ll-text"} ll-on-${one.kind}`}
    >
      {text}
    </text>
  ) : null;
}
