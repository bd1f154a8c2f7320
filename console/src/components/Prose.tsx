import { Fragment } from "react";

/** A sentence of the server's: what stands between backticks is code. */
export function Prose({ text }: { text: string }) {
  return text.split("`").map((part, place) => (
    <Fragment key={place}>{place % 2 === 1 ? <code>{part}</code> : part}</Fragment>
  ));
}
