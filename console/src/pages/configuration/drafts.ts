/**
 * Drafts of the forms. They outlive a change of the page, a new load and a sign-in in between, in this tab: whoever
 * was signed out while typing finds everything as it was.
 */
import { useCallback, useState } from "react";

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

export type Drafts = Partial<Record<Section, Draft>>;

export function useDrafts(): [Drafts, (section: Section, draft: Draft | undefined) => void] {
  const [drafts, setDrafts] = useState<Drafts>(() => Object.fromEntries(SECTIONS.map((one) => [one, stored(one)])));
  const put = useCallback((section: Section, draft: Draft | undefined) => {
    if (draft) sessionStorage.setItem(keyOf(section), JSON.stringify(draft));
    else sessionStorage.removeItem(keyOf(section));
    setDrafts((now) => ({ ...now, [section]: draft }));
  }, []);
  return [drafts, put];
}
