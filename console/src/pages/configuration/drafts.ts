/**
 * Drafts of the forms. They outlive a change of the page, a new load and a sign-in in between, in this tab: whoever
 * was signed out while typing finds everything as it was.
 */
import { useCallback, useEffect, useState } from "react";

import type { Draft } from "./draft";
import { SECTIONS, type Section } from "./sections";

const keyOf = (section: Section) => `perdure-draft-${section}`;

function stored(section: Section): Draft | undefined {
  try {
    const found = JSON.parse(sessionStorage.getItem(keyOf(section)) ?? "null") as Draft | null;
    return found && typeof found.base === "object" && typeof found.edits === "object" ? found : undefined;
  } catch {
    return undefined; // of another version of the console
  }
}

function store(section: Section, draft: Draft | undefined) {
  if (draft) sessionStorage.setItem(keyOf(section), JSON.stringify(draft));
  else sessionStorage.removeItem(keyOf(section));
}

export type Drafts = Partial<Record<Section, Draft>>;
/** Makes the next draft of the one that is there, not of the one that was drawn. */
export type Change = (draft: Draft | undefined) => Draft | undefined;

export function useDrafts(): [Drafts, (section: Section, change: Change) => void] {
  const [drafts, setDrafts] = useState<Drafts>(() => Object.fromEntries(SECTIONS.map((one) => [one, stored(one)])));
  const change = useCallback((section: Section, next: Change) => {
    setDrafts((now) => ({ ...now, [section]: next(now[section]) }));
  }, []);
  useEffect(() => SECTIONS.forEach((one) => store(one, drafts[one])), [drafts]);
  return [drafts, change];
}
