/** What a form is made of. A setting that the API gains and no form has is missed by the compiler. */
import type { Schema } from "../../../api/client";

export type Values = {
  checkpoint: Schema<"CheckpointConfiguration">;
  job_volume: Schema<"JobVolumeConfiguration">;
  store: Schema<"StoreConfiguration">;
  log: Schema<"LogConfiguration">;
  server: Schema<"ServerConfiguration">;
  cognito: Schema<"CognitoConfiguration">;
};
export type Section = keyof Values;

/** `lines`: a list, one entry a line. `tags`: names with values. `path`: text, or nothing. `none`: what no value means. */
export type Kind = "switch" | "duration" | "integer" | "text" | "path" | "choice" | "lines" | "tags";
export type Setting = { kind: Kind; label: string; help: string; unit?: string; example?: string; zero?: string; none?: string };
type Group<S extends Section> = { title: string; settings: Partial<Record<keyof Values[S], Setting>> };
export type Form = { title: string; about: string; groups: { title: string; settings: Record<string, Setting> }[] };

type Keys<T> = T extends unknown ? keyof T : never;
/** Every setting of a section but the one that has no effect. */
type Missing<S extends Section, G extends readonly Group<S>[]> = Exclude<
  keyof Values[S],
  Keys<G[number]["settings"]> | "identity_pool_id"
>;
type Complete<S extends Section, G extends readonly Group<S>[]> =
  Missing<S, G> extends never ? unknown : { missing: Missing<S, G> };

export const form = <S extends Section>() =>
  <const G extends readonly Group<S>[]>(title: string, about: string, groups: G & Complete<S, G>): Form => ({
    title,
    about,
    groups: groups as unknown as Form["groups"],
  });
