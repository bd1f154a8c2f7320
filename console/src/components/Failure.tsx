import Alert from "@cloudscape-design/components/alert";
import Button from "@cloudscape-design/components/button";

import { ApiError, isSignedOut, titleOf } from "../api/errors";

/** What a call was refused with: what happened, what to do, and a button to try again. */
export function Failure({ problem, onRetry }: { problem: unknown; onRetry?: () => void }) {
  if (isSignedOut(problem)) return null; // the sign-in page is on its way
  const details = problem instanceof ApiError ? problem.details : [];
  return (
    <Alert
      type="error"
      header={titleOf(problem)}
      action={onRetry && <Button onClick={onRetry}>Try again</Button>}
    >
      {problem instanceof Error ? problem.message : String(problem)}
      {details.length > 1 && (
        <ul>
          {details.map((one) => (
            <li key={one.field + one.message}>
              <code>{one.field}</code>: {one.message}
            </li>
          ))}
        </ul>
      )}
    </Alert>
  );
}
