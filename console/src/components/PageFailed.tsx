import Alert from "@cloudscape-design/components/alert";
import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import type { ErrorComponentProps } from "@tanstack/react-router";
import { useEffect, useRef } from "react";

import { useAway } from "../api/reach";

/** A page that could not be drawn: a new version of the server replaced its code, or the console made a mistake. */
export function PageFailed({ error }: ErrorComponentProps) {
  const said = error instanceof Error ? error.message : String(error);
  const gone = /dynamically imported module|module script failed|preload CSS/i.test(said);
  useLoadedWhenBack(gone);
  return (
    <Box padding="l">
      <Alert
        type="error"
        header={gone ? "This page's code could not be loaded" : "The console made a mistake on this page"}
        action={<Button onClick={() => location.reload()}>Load again</Button>}
      >
        {gone
          ? "The server was updated, or it does not answer now. Load the page again."
          : `Load the page again. If it fails again, report this with the words: ${said}`}
      </Alert>
    </Box>
  );
}

/** Where the server was away when the code was asked for, the page is loaded once it is back. Else nothing is done: code
 * that a server does not have would be asked for without an end. */
function useLoadedWhenBack(gone: boolean) {
  const away = useAway();
  const wasAway = useRef(false);
  useEffect(() => {
    wasAway.current ||= away;
    if (gone && wasAway.current && !away) location.reload();
  }, [gone, away]);
}
