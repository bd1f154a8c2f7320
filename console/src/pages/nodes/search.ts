/** What the address of the list of nodes says. Whatever is not usable is left out: an address may be typed by hand. */
import type { Schema } from "../../api/client";
import { namesIn } from "../../components/filter/names";

export type NodeOrder = Schema<"NodeOrder">;
export type Show = "live" | "ended";
export type NodesSearch = { q?: string; show?: Show; zone?: string[]; instance_type?: string[]; sort?: NodeOrder };

/** Properties of which several names may be asked for. */
export const NAMES = ["zone", "instance_type"] as const;
const ORDERS: NodeOrder[] = ["instance_id", "-instance_id", "first_seen_at", "-first_seen_at", "ended_at", "-ended_at"];

export const validateNodesSearch = (search: Record<string, unknown>): NodesSearch => ({
  q: typeof search.q === "string" && search.q ? search.q.slice(0, 200) : undefined,
  show: search.show === "live" || search.show === "ended" ? search.show : undefined,
  ...namesIn(search, NAMES),
  sort: ORDERS.find((order) => order === search.sort),
});

/** The same as the API asks it. */
export function asked({ q, show, sort = "-first_seen_at", ...names }: NodesSearch) {
  const state: Schema<"NodeState">[] = show === "live" ? ["ready", "noticed"] : show === "ended" ? ["gone"] : [];
  return { q: q ?? "", state, sort, ...names };
}

/** Where the CSV is. `state`: finished nodes, or all. */
export function csvAddress({ q, zone = [], instance_type = [] }: NodesSearch, state: "gone" | "all"): string {
  const query = new URLSearchParams({ state });
  if (q) query.set("q", q);
  for (const one of zone) query.append("zone", one);
  for (const one of instance_type) query.append("instance_type", one);
  return `/api/v1/nodes.csv?${query}`;
}
