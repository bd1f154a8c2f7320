/**
 * The stream of changes (GET /api/v1/stream), one connection per tab that can be seen.
 *
 * Browsers open six connections to a server at most: tabs in the background must let go of theirs, or the seventh tab
 * would never load. A tab that comes back asks anew for what it shows.
 */
import { useEffect, useRef, useSyncExternalStore } from "react";
import { useQueryClient } from "@tanstack/react-query";

import type { Schema } from "./client";
import { meQuery } from "./me";
import { followPositions, oldestPosition } from "./positions";

export type LiveEvent = Schema<"EventView"> & { job_id: string; queue: string };
/** A job as a list has it, without what takes a look into its attempts. */
export type LiveJob = Omit<Schema<"JobListed">, "attempts" | "last_checkpoint_at" | "run_seconds">;
/** A node as the stream tells of it: without the sums of its work. */
export type LiveNode = Omit<
  Schema<"NodeWithWork">,
  "jobs" | "attempts" | "checkpoints" | "cost_usd" | "cost_estimated"
>;
export type LiveChange =
  | { kind: "job"; job: LiveJob }
  | { kind: "node"; node: LiveNode }
  | { kind: "event"; event: LiveEvent };

export type Connection = "quiet" | "live" | "lost";

const GRACE_MS = 4000;
const AGAIN_MS = 2000;

let connection: Connection = "quiet";
const watchers = new Set<() => void>();

function setConnection(now: Connection) {
  if (now === connection) return;
  connection = now;
  watchers.forEach((tell) => tell());
}

/** `lost`: the server has not answered for some seconds. `quiet`: nothing on this page follows it. */
export function useConnection(): Connection {
  return useSyncExternalStore(
    (tell) => {
      watchers.add(tell);
      return () => watchers.delete(tell);
    },
    () => connection,
  );
}

/** Its address, to begin after a position. */
function streamFrom(after: number | undefined, job: string | undefined): string {
  const query = new URLSearchParams();
  if (job !== undefined) query.set("job", job);
  if (after !== undefined) query.set("after", String(after));
  return `/api/v1/stream${query.size > 0 ? `?${query}` : ""}`;
}

/** Follows the stream while the component is shown. `onReset`: something may have been missed; ask anew. */
export function useLive(
  onChange: (change: LiveChange) => void,
  { job, onReset }: { job?: string; onReset?: () => void } = {},
) {
  const client = useQueryClient();
  const latest = useRef({ onChange, onReset });
  useEffect(() => {
    latest.current = { onChange, onReset };
  });

  useEffect(() => {
    let source: EventSource | null = null;
    let mayHaveMissed = false; // what is shown was asked for while nobody listened
    let begin: number | undefined; // everything after this position is told
    let early: number | undefined; // of the oldest answer that came before the stream began
    let grace: ReturnType<typeof setTimeout> | undefined;
    let again: ReturnType<typeof setTimeout> | undefined;

    const reset = () => (latest.current.onReset ? latest.current.onReset() : void client.invalidateQueries());
    const open = () => {
      clearTimeout(again);
      source = new EventSource(streamFrom(mayHaveMissed ? undefined : (early = oldestPosition()), job));
      source.addEventListener("ready", ({ data }) => {
        clearTimeout(grace);
        grace = undefined;
        setConnection("live");
        begin = (JSON.parse(data) as { position: number }).position;
        if (mayHaveMissed || (early !== undefined && early < begin)) reset();
        mayHaveMissed = true;
      });
      source.addEventListener("reset", reset);
      source.addEventListener("job", (message) => latest.current.onChange({ kind: "job", job: JSON.parse(message.data) }));
      source.addEventListener("node", (message) =>
        latest.current.onChange({ kind: "node", node: JSON.parse(message.data) }),
      );
      source.addEventListener("event", (message) =>
        latest.current.onChange({ kind: "event", event: JSON.parse(message.data) }),
      );
      source.onerror = () => {
        mayHaveMissed = true;
        grace ??= setTimeout(() => setConnection("lost"), GRACE_MS);
        if (source?.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
        again = setTimeout(() => {
          void client.invalidateQueries({ queryKey: meQuery.queryKey }); // signed out meanwhile?
          open();
        }, AGAIN_MS);
      };
    };
    const close = () => {
      clearTimeout(grace);
      clearTimeout(again);
      grace = undefined;
      source?.close();
      source = null;
    };
    const look = () => {
      if (document.visibilityState === "hidden") close();
      else if (source === null) open();
    };
    const unfollow = followPositions((position) => {
      if (begin === undefined) early = Math.min(position, early ?? position);
      else if (position < begin) {
        begin = undefined; // once: whatever is on its way is asked for anew, too
        reset();
      }
    });
    look();
    document.addEventListener("visibilitychange", look);
    return () => {
      document.removeEventListener("visibilitychange", look);
      unfollow();
      close();
      setConnection("quiet");
    };
  }, [job, client]);
}
