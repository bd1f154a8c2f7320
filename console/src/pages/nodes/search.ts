/** What the address of the list of nodes says. */
import type { Schema } from "../../api/client";

export type NodeOrder = Schema<"NodeOrder">;
export type Show = "live" | "ended";
export type NodesSearch = { q?: string; show?: Show; sort?: NodeOrder };

const ORDERS: NodeOrder[] = ["instance_id", "-instance_id", "first_seen_at", "-first_seen_at", "ended_at", "-ended_at"];

export const validateNodesSearch = (search: Record<string, unknown>): NodesSearch => ({
  q: typeof search.q === "string" && search.q ? search.q.slice(0, 200) : undefined,
  show: search.show === "live" || search.show === "ended" ? search.show : undefined,
  sort: ORDERS.find((order) => order === search.sort),
});

/** The same as the API asks it. */
export function asked({ q, show, sort = "-first_seen_at" }: NodesSearch) {
  const state: Schema<"NodeState">[] = show === "live" ? ["ready", "noticed"] : show === "ended" ? ["gone"] : [];
  return { q: q ?? "", state, sort };
}

/** Where the CSV is. `state`: finished nodes, or all. */
export function csvAddress({ q }: NodesSearch, state: "gone" | "all"): string {
  const query = new URLSearchParams({ state });
  if (q) query.set("q", q);
  return `/api/v1/nodes.csv?${query}`;
}
