/** What a person chose for a table, kept in this browser. */
import { useState } from "react";

export function usePreference<T extends object>(name: string, usual: T): [T, (value: T) => void] {
  const key = `perdure-${name}`;
  const [value, setValue] = useState<T>(() => {
    try {
      return { ...usual, ...(JSON.parse(localStorage.getItem(key) ?? "{}") as Partial<T>) };
    } catch {
      return usual; // an older version's, or somebody's own
    }
  });
  return [
    value,
    (chosen) => {
      localStorage.setItem(key, JSON.stringify(chosen));
      setValue(chosen);
    },
  ];
}
