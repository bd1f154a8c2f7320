import { duration } from "../../../format";
import { totals, WORDS, type LifeLine } from "./view";

/** What each colour and mark means, with the sum of its seconds. */
export function Legend({ line, now }: { line: LifeLine; now: number }) {
  return (
    <ul className="ll-legend">
      {totals(line, now).map(([kind, seconds]) => (
        <li key={kind}>
          <svg width="18" height="12" aria-hidden="true">
            {kind === "wait" ? (
              <line x1="0" x2="18" y1="6" y2="6" className="ll-wait" />
            ) : (
              <rect width="18" height="12" className={`ll-${kind}`} />
            )}
          </svg>
          {WORDS[kind]} <span className="figure">{duration(seconds)}</span>
        </li>
      ))}
      {line.marks.some((one) => one.kind !== "notice") && (
        <li>
          <svg width="12" height="12" aria-hidden="true">
            <path d="M6 1l5 5-5 5-5-5z" className="ll-mark" />
          </svg>
          Checkpoint <span className="figure">{line.marks.filter((one) => one.kind !== "notice").length}</span>
        </li>
      )}
      {line.marks.some((one) => one.kind === "notice") && (
        <li>
          <svg width="12" height="14" aria-hidden="true">
            <path d="M1 14v-13h10l-3 3.5 3 3.5h-10" className="ll-notice" />
          </svg>
          AWS's notice
        </li>
      )}
    </ul>
  );
}
