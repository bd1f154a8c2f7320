import { Fragment } from "react";

/** A line is not broken between a number and its unit. */
const QUANTITY = /(\d+(?:\.\d+)? (?:d|h|min|s|[KMGT]?i?B)\b)/;

/** A sentence of the server's: what stands between backticks is code. */
export function Prose({ text }: { text: string }) {
  return text.split("`").map((part, place) => (
    <Fragment key={place}>{place % 2 === 1 ? <code>{part}</code> : <Words text={part} />}</Fragment>
  ));
}

function Words({ text }: { text: string }) {
  return text.split(QUANTITY).map((part, place) =>
    place % 2 === 1 ? (
      <span key={place} className="together">
        {part}
      </span>
    ) : (
      <Fragment key={place}>{part}</Fragment>
    ),
  );
}
