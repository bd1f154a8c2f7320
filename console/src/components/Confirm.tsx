import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import Modal from "@cloudscape-design/components/modal";
import SpaceBetween from "@cloudscape-design/components/space-between";
import type { ReactNode } from "react";

import { Failure } from "./Failure";

type Props = {
  title: string;
  deed: string;
  busy: boolean;
  problem: unknown;
  onConfirm: () => void;
  onClose: () => void;
  children: ReactNode;
};

/** Asks before something is done. It stays open while that takes, and says what it was refused with. */
export function Confirm({ title, deed, busy, problem, onConfirm, onClose, children }: Props) {
  return (
    <Modal
      visible
      header={title}
      onDismiss={onClose}
      footer={
        <Box float="right">
          <SpaceBetween direction="horizontal" size="xs">
            <Button variant="link" onClick={onClose}>
              Cancel
            </Button>
            <Button variant="primary" loading={busy} loadingText="Working" onClick={onConfirm}>
              {deed}
            </Button>
          </SpaceBetween>
        </Box>
      }
    >
      <SpaceBetween size="m">
        {problem != null && <Failure problem={problem} />}
        {children}
      </SpaceBetween>
    </Modal>
  );
}
