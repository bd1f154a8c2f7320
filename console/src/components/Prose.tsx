import { Fragment } from "react";

/** A sentence of the server's: what stands between backticks is code. */
export function Prose({ text }: { text: string }) {
  return text.split("`").map((part, place) => (
    <Fragment key={place}>{place % 2 === 1 ? <code>{part}</code> : withUnits(part)}</Fragment>
  ));
}

/** A line is not broken between a number and its unit. */
const withUnits = (text: string): string => text.replace(/(\d) (?=(?:d|h|min|s|[KMGT]?i?B)\b)/g, "$1\u00a0");
