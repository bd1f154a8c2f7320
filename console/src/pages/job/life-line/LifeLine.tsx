/** A job's life over nodes and zones, to look at from two weeks down to a second. Mouse, touch and keyboard. */
import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import Container from "@cloudscape-design/components/container";
import ExpandableSection from "@cloudscape-design/components/expandable-section";
import Header from "@cloudscape-design/components/header";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { memo, useMemo, useState, type KeyboardEvent } from "react";

import { duration, localTime } from "../../../format";
import { useNow, useWidth } from "../../../hooks";
import { useDrag } from "./drag";
import { Interruptions } from "./Interruptions";
import { Legend } from "./Legend";
import { LifeLineTable } from "./LifeLineTable";
import { Picture } from "./Picture";
import {
  around,
  begin,
  end,
  moved,
  outages,
  rows,
  wholeLife,
  WORDS,
  zoomed,
  type LifeLine as Line,
  type Span,
  type Stretch,
} from "./view";

const KEYS = "Keys: plus and minus zoom, arrows left and right move, N and P go from bar to bar, 0 shows the whole life.";

type Props = {
  line: Line;
  /** When the answer came, by this machine's clock: the server's may differ. */
  cameAt: number;
  /** Is the job not finished? Its last bar grows with the time. */
  runs: boolean;
};

export const LifeLine = memo(function LifeLine({ line, cameAt, runs }: Props) {
  const here = useNow(1000, runs);
  const now = Date.parse(line.now) + (runs ? Math.max(0, here - cameAt) : 0);
  const [place, width] = useWidth<HTMLDivElement>();
  const [asTable, setAsTable] = useState(false);
  const [zoom, setZoom] = useState<Span | null>(null);
  const [chosen, setChosen] = useState<Stretch | null>(null);
  const whole = wholeLife(line, now);
  const span = zoom ?? whole;
  const stops = outages(line, now);
  const table = useMemo(() => rows(line), [line]);
  const labelWidth = width < 600 ? 84 : 176;

  const kept = (next: Span) => (next.until - next.from >= whole.until - whole.from ? null : next);
  // A pointer moves more often than the picture is drawn: each step goes on from the one before.
  const near = (factor: number) =>
    setZoom((zoom) => {
      const from = zoom ?? whole;
      return kept(zoomed(from, factor, (from.from + from.until) / 2, whole));
    });
  const move = (share: number) => setZoom((zoom) => zoom && kept(moved(zoom, share, whole)));
  const step = (by: number) => {
    const at = chosen ? line.stretches.findIndex((one) => one.started_at === chosen.started_at && one.kind === chosen.kind) : -1;
    const next = line.stretches[Math.min(Math.max(at + by, 0), line.stretches.length - 1)];
    if (!next) return;
    setChosen(next);
    if (zoom && (begin(next) < span.from || end(next, now) > span.until)) {
      const half = (span.until - span.from) / 2;
      setZoom(kept({ from: begin(next) - half, until: begin(next) + half }));
    }
  };

  function onKey(event: KeyboardEvent) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const deeds: Record<string, () => void> = {
      "+": () => near(0.5),
      "=": () => near(0.5),
      "-": () => near(2),
      "0": () => setZoom(null),
      ArrowLeft: () => move(-0.25),
      ArrowRight: () => move(0.25),
      n: () => step(1),
      p: () => step(-1),
    };
    const deed = deeds[event.key];
    if (!deed) return;
    event.preventDefault();
    deed();
  }

  const dragged = useDrag((pixels) => move(-pixels / Math.max(1, width - labelWidth)));

  return (
    <Container
      header={
        <Header
          variant="h2"
          description="Each row is an instance, each bar what the job did there."
          actions={
            <SpaceBetween direction="horizontal" size="xs">
              {stops.length > 0 && (
                <Interruptions stops={stops} zoom={zoom} onShow={(one) => setZoom(one && around(one, whole))} />
              )}
              <Button iconName="zoom-out" ariaLabel="Zoom out" disabled={!zoom} onClick={() => near(2)} />
              <Button iconName="zoom-in" ariaLabel="Zoom in" onClick={() => near(0.5)} />
              <Button iconName="zoom-to-fit" ariaLabel="Show the whole life" disabled={!zoom} onClick={() => setZoom(null)} />
            </SpaceBetween>
          }
        >
          Life-line
        </Header>
      }
    >
      <SpaceBetween size="s">
        <Legend line={line} now={now} />
        <div
          ref={place}
          className={zoom ? "life-line life-line-zoomed" : "life-line"}
          tabIndex={0}
          role="group"
          aria-label={`Picture of the job's life: ${line.lanes.length} containers, ${stops.length} interruptions. ${KEYS} The table below says the same.`}
          onKeyDown={onKey}
          onDoubleClick={() => near(0.4)}
          {...dragged}
        >
          {width > 0 && (
            <Picture
              line={line}
              rows={table}
              span={span}
              now={now}
              width={width}
              labelWidth={labelWidth}
              chosen={chosen}
              onChoose={setChosen}
            />
          )}
        </div>
        <Box variant="small" color="text-body-secondary">
          <span aria-live="polite">{chosen ? said(chosen, line, now) : `Point at a bar to read it. ${KEYS}`}</span>
        </Box>
        <ExpandableSection
          headerText="The same as a table"
          variant="footer"
          expanded={asTable}
          onChange={({ detail }) => setAsTable(detail.expanded)}
        >
          {asTable && <LifeLineTable line={line} now={now} />}
        </ExpandableSection>
      </SpaceBetween>
    </Container>
  );
});

function said(one: Stretch, line: Line, now: number): string {
  const lane = line.lanes.find((other) => other.epoch === one.epoch);
  const until = one.ended_at ? `until ${localTime(new Date(one.ended_at))}` : "and goes on";
  const where = lane ? ` on ${lane.instance_id} in ${lane.zone} (attempt ${lane.attempt})` : "";
  return `${WORDS[one.kind]}: ${duration((end(one, now) - begin(one)) / 1000)}${where}, from ${localTime(new Date(one.started_at))} ${until}.`;
}
