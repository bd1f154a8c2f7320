/**
 * How far the answers of the API reach. Each names the position of the stream of changes up to which it is true: what is
 * recorded after the oldest answer that a page shows is not on the page.
 */

/** An answer so old is asked for anew by the page that would show it. Milliseconds. */
export const FRESH_MS = 15_000;
const SLACK_MS = 1000;

type Told = { at: number; position: number };

let told: Told[] = [];
const watchers = new Set<(position: number) => void>();

/** An answer came. One that is not read from the records names no position. */
export function notePosition(answer: Response) {
  const named = answer.headers.get("Perdure-Position");
  if (named === null) return;
  const position = Number(named);
  const now = Date.now();
  told = [...told.filter(({ at }) => at > now - FRESH_MS - SLACK_MS), { at: now, position }];
  watchers.forEach((tell) => tell(position));
}

/** Of the oldest answer that may still be shown; undefined: there is none. */
export function oldestPosition(): number | undefined {
  const since = Date.now() - FRESH_MS - SLACK_MS;
  const positions = told.filter(({ at }) => at > since).map(({ position }) => position);
  return positions.length > 0 ? Math.min(...positions) : undefined;
}

/** `onPosition` hears of each answer, until what this returns is called. */
export function followPositions(onPosition: (position: number) => void): () => void {
  watchers.add(onPosition);
  return () => void watchers.delete(onPosition);
}
