/** What would change, and when; then it is saved. */
import Alert from "@cloudscape-design/components/alert";
import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import Modal from "@cloudscape-design/components/modal";
import SpaceBetween from "@cloudscape-design/components/space-between";
import StatusIndicator from "@cloudscape-design/components/status-indicator";
import { useMutation, useQueryClient } from "@tanstack/react-query";

import { isOutOfDate } from "../../api/errors";
import { meQuery } from "../../api/me";
import { Failure } from "../../components/Failure";
import { useNotices } from "../../components/notices";
import { count } from "../../format";
import { Changes } from "./Changes";
import type { Fields } from "./draft";
import { configurationQuery, historyQuery, save, type Checked, type Configuration } from "./queries";
import { FORMS, type Section } from "./sections";
import { nameOf } from "./shown";

const IN_FORCE_MS = 1500;

type Props = {
  section: Section;
  /** Of the configuration that the changes were compared with: another one is not overwritten. */
  version: number;
  wanted: Fields;
  checked: Checked | undefined;
  onClose: () => void;
  onSaved: (saved: Configuration) => void;
};

export function Review({ section, version, wanted, checked, onClose, onSaved }: Props) {
  const client = useQueryClient();
  const { say } = useNotices();
  const saving = useMutation({
    mutationFn: () => save(section, wanted, version),
    onSuccess: async (done) => {
      // An answer that is still on its way was given before this was saved.
      await client.cancelQueries({ queryKey: configurationQuery.queryKey, exact: true });
      client.setQueryData(configurationQuery.queryKey, done.configuration);
      void client.invalidateQueries({ queryKey: historyQuery.queryKey });
      // The server goes by it within a second; whoever has to sign in now is to be asked at once, not at the next click.
      if (section === "cognito")
        setTimeout(() => void client.invalidateQueries({ queryKey: meQuery.queryKey }), IN_FORCE_MS);
      onSaved(done.configuration);
      onClose();
      const told = [
        done.jobs_told ? `${count(done.jobs_told)} running jobs were told.` : "",
        done.nodes_told ? `${count(done.nodes_told)} nodes were told.` : "",
      ];
      say({ type: "success", header: `${FORMS[section].title}: saved`, content: [...done.notes, ...told].join(" ") });
      if (done.warnings.length > 0)
        say({ type: "warning", header: "Saved, but there is something to know", content: done.warnings.join(" ") });
    },
    onError: async (problem) => {
      if (!isOutOfDate(problem)) return;
      await client.refetchQueries({ queryKey: configurationQuery.queryKey, exact: true });
      onClose(); // the form says what they saved
      say({ type: "info", content: "Nothing was saved: somebody else saved something meanwhile. Look at it, then review again." });
    },
  });

  return (
    <Modal
      visible
      size="large"
      header={`Save ${FORMS[section].title}?`}
      onDismiss={onClose}
      footer={
        <Box float="right">
          <SpaceBetween direction="horizontal" size="xs">
            <Button variant="link" onClick={onClose}>
              Go on editing
            </Button>
            <Button variant="primary" disabled={!checked || checked.problems.length > 0} loading={saving.isPending} onClick={() => saving.mutate()}>
              Save
            </Button>
          </SpaceBetween>
        </Box>
      }
    >
      <SpaceBetween size="m">
        {saving.error && !isOutOfDate(saving.error) && <Failure problem={saving.error} />}
        {!checked && <StatusIndicator type="loading">Asking the API</StatusIndicator>}
        {checked?.problems.map((problem) => (
          <Alert key={problem.field + problem.message} type="error" header={nameOf(problem.field)}>
            {problem.message}
          </Alert>
        ))}
        {checked && <Changes changes={checked.changes} label="What would change" />}
        {checked?.notes.map((note) => (
          <Alert key={note} type="info">
            {note}
          </Alert>
        ))}
        {section === "cognito" && wanted.enabled === true && (
          <Alert type="warning">
            You are asked to sign in as soon as this is saved. If you cannot, run{" "}
            <code>perdure auth cognito disable</code> on the server's machine.
          </Alert>
        )}
      </SpaceBetween>
    </Modal>
  );
}
