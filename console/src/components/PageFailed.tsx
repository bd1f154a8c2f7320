import Alert from "@cloudscape-design/components/alert";
import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import type { ErrorComponentProps } from "@tanstack/react-router";

/** A page that could not be drawn: a new version of the server replaced its code, or the console made a mistake. */
export function PageFailed({ error }: ErrorComponentProps) {
  const said = error instanceof Error ? error.message : String(error);
  const gone = /dynamically imported module|module script failed|preload CSS/i.test(said);
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
