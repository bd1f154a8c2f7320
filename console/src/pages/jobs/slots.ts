/** Which row of the table shows which job. */
import { useEffect, useRef } from "react";

/** A job keeps its slot while it is shown; others take those that are free, from 0 on. */
export function slots(before: ReadonlyMap<string, number>, ids: readonly string[]): Map<string, number> {
  const kept = new Map(ids.flatMap((id) => (before.has(id) ? [[id, before.get(id)!] as const] : [])));
  const taken = new Set(kept.values());
  let free = 0;
  for (const id of ids) {
    if (kept.has(id)) continue;
    while (taken.has(free)) free += 1;
    taken.add(free);
    kept.set(id, free);
  }
  return kept;
}

/**
 * For a table's `trackBy`. To draw another job in a row that is there takes half as long as to take the row away and
 * make a new one; a job that stays keeps its row, and so the focus.
 */
export function useSlots(ids: readonly string[]): (job: { job_id: string }) => string {
  const before = useRef<ReadonlyMap<string, number>>(new Map());
  const now = slots(before.current, ids);
  useEffect(() => {
    before.current = now;
  });
  return ({ job_id }) => String(now.get(job_id) ?? job_id);
}
