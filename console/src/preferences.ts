/** What a person chose for a table, kept in this browser. */
import { useState } from "react";

const keyOf = (name: string) => `perdure-${name}`;

/** What was chosen; what is usual for the rest. */
export function preference<T extends object>(name: string, usual: T): T {
  try {
    return { ...usual, ...(JSON.parse(localStorage.getItem(keyOf(name)) ?? "{}") as Partial<T>) };
  } catch {
    return usual; // an older version's, or somebody's own
  }
}

export function usePreference<T extends object>(name: string, usual: T): [T, (value: T) => void] {
  const [value, setValue] = useState<T>(() => preference(name, usual));
  return [
    value,
    (chosen) => {
      localStorage.setItem(keyOf(name), JSON.stringify(chosen));
      setValue(chosen);
    },
  ];
}
