/** Lines that a job printed, as text. */
import type { Schema } from "../../api/client";

export type ContainerOutput = Schema<"ContainerOutputView">;
/** Lines one after the other that all count, or that a restore all undid. */
export type Run = { undone: boolean; text: string };

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

export const undoneIn = (containers: readonly ContainerOutput[]): number =>
  containers.reduce((sum, one) => sum + one.lines.filter((line) => line.undone).length, 0);

/** `all`: with those that a restore undid. */
export function linesOf({ lines }: Pick<ContainerOutput, "lines">, all: boolean): Run[] {
  const runs: Run[] = [];
  for (const { at, text, undone } of lines) {
    if (undone && !all) continue;
    const line = `${CLOCK.format(new Date(at))}  ${text}\n`;
    const last = runs.at(-1);
    if (last?.undone === undone) last.text += line;
    else runs.push({ undone, text: line });
  }
  return runs;
}
