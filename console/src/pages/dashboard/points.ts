/** The points of a chart: not more of them than can be told apart. */

/** More points would make a line a mere zigzag. */
const MOST_POINTS = 32;
/** How many values of so many make one point. */
export const togetherOf = (values: number): number => Math.max(1, Math.ceil(values / MOST_POINTS));

/** Sums of so many values each. The last one ends with the values; what is too few for a first one is left out. */
export function summed(values: readonly (number | null)[], together: number): number[] {
  const begin = values.length % together;
  const sums = Array.from({ length: Math.floor(values.length / together) }, () => 0);
  values.slice(begin).forEach((value, place) => (sums[Math.floor(place / together)]! += value ?? 0));
  return sums;
}
