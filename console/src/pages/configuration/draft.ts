/** What somebody has typed and not saved: as controls hold it, as the API takes it, and beside what others saved. */
import { settingOf, type Kind, type Section, type Setting } from "./sections";

export type Tag = { key: string; value: string };
/** What a control holds. */
export type Input = boolean | string | Tag[];
export type Fields = Record<string, unknown>;
/** `base`: what held when the first edit was made. */
export type Draft = { base: Fields; edits: Record<string, Input> };

/** 900 → `15m`, 5400 → `1h30m`, 2.5 → `2.5s`: as the API reads it. */
export function shortDuration(seconds: number): string {
  if (seconds === 0) return "0";
  if (seconds < 60 || !Number.isInteger(seconds)) return `${seconds}s`;
  const parts = [
    [Math.floor(seconds / 3600), "h"],
    [Math.floor(seconds / 60) % 60, "m"],
    [seconds % 60, "s"],
  ] as const;
  return parts.map(([n, unit]) => (n ? `${n}${unit}` : "")).join("");
}

/** A value of the API as its control holds it. */
export function inputOf(kind: Kind, value: unknown): Input {
  switch (kind) {
    case "switch":
      return value === true;
    case "duration":
      return typeof value === "number" ? shortDuration(value) : String(value ?? "");
    case "lines":
      return ((value as string[] | null) ?? []).join("\n");
    case "tags":
      return Object.entries((value as Record<string, string> | null) ?? {}).map(([key, text]) => ({ key, value: text }));
    default:
      return value == null ? "" : String(value);
  }
}

/** What a control holds as the API takes it. What cannot be a number stays text: the API says what is allowed. */
export function valueOf(kind: Kind, input: Input): unknown {
  if (kind === "switch") return input;
  if (kind === "tags") return Object.fromEntries((input as Tag[]).map(({ key, value }) => [key.trim(), value.trim()]));
  const text = (input as string).trim();
  switch (kind) {
    case "lines":
      return text.split("\n").map((line) => line.trim()).filter(Boolean);
    case "integer":
      return /^-?\d{1,15}$/.test(text) ? Number(text) : text;
    case "path":
      return text === "" ? null : text;
    default:
      return text;
  }
}

const same = (one: unknown, other: unknown): boolean => canonical(one) === canonical(other);

/** Maps compare without their order, which means nothing. */
function canonical(value: unknown): string {
  return JSON.stringify(value, (_, part) =>
    part && typeof part === "object" && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part,
  );
}

const settingFor = (section: Section, field: string): Setting | undefined => settingOf(`${section}.${field}`)?.setting;

/** The draft with one more edit; without it when that says what holds anyhow. */
export function edited(section: Section, draft: Draft | undefined, now: Fields, field: string, input: Input): Draft | undefined {
  const kind = settingFor(section, field)?.kind ?? "text";
  const { base, edits } = draft ?? { base: now, edits: {} };
  const { [field]: _, ...others } = edits;
  const next = same(input, inputOf(kind, base[field])) ? others : { ...others, [field]: input };
  return Object.keys(next).length > 0 ? { base, edits: next } : undefined;
}

/** What is to be sent: the edited fields. */
export function patchOf(section: Section, draft: Draft | undefined): Fields {
  return Object.fromEntries(
    Object.entries(draft?.edits ?? {}).map(([field, input]) => [field, valueOf(settingFor(section, field)?.kind ?? "text", input)]),
  );
}

export type Conflict = { field: string; before: unknown; theirs: unknown; yours: unknown };

/** Fields that somebody else saved while they were edited here, with another value. */
export function conflictsOf(section: Section, draft: Draft | undefined, now: Fields): Conflict[] {
  if (!draft) return [];
  const yours = patchOf(section, draft);
  return Object.entries(draft.edits)
    .filter(([field, input]) => {
      const kind = settingFor(section, field)?.kind ?? "text";
      return !same(draft.base[field], now[field]) && !same(inputOf(kind, now[field]), input);
    })
    .map(([field]) => ({ field, before: draft.base[field], theirs: now[field], yours: yours[field] }));
}

/** Other fields of the section that somebody else saved meanwhile. */
export function theirsAlone(draft: Draft | undefined, now: Fields): string[] {
  if (!draft) return [];
  return Object.keys(now).filter((field) => !(field in draft.edits) && !same(draft.base[field], now[field]));
}

/** What was typed since `saved` was sent, upon what holds now that it is saved. */
export function typedSince(section: Section, draft: Draft | undefined, saved: Draft, now: Fields): Draft | undefined {
  if (!draft) return undefined;
  const done = Object.keys(saved.edits).filter((field) => same(draft.edits[field], saved.edits[field]));
  return rebased(section, draft, now, new Set(done));
}

/** The draft upon what holds now; fields in `taken` are given up for theirs. */
export function rebased(section: Section, draft: Draft, now: Fields, taken: ReadonlySet<string> = new Set()): Draft | undefined {
  let next: Draft | undefined;
  for (const [field, input] of Object.entries(draft.edits))
    if (!taken.has(field)) next = edited(section, next ?? { base: now, edits: {} }, now, field, input) ?? next;
  return next;
}
