/** What the address of the list of volumes says. */
export type Whose = "finished" | "unfinished";
export type VolumesSearch = { whose?: Whose };

export const validateVolumesSearch = (search: Record<string, unknown>): VolumesSearch => ({
  whose: search.whose === "finished" || search.whose === "unfinished" ? search.whose : undefined,
});
