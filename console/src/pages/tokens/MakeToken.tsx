/** Makes a token and shows it, once. */
import Alert from "@cloudscape-design/components/alert";
import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import CopyToClipboard from "@cloudscape-design/components/copy-to-clipboard";
import Modal from "@cloudscape-design/components/modal";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";

import type { Schema } from "../../api/client";
import { ApiError } from "../../api/errors";
import { Failure } from "../../components/Failure";
import { make, tokensQuery } from "./queries";
import { Wish } from "./Wish";

const DAY = 86_400;

export function MakeToken({ onClose }: { onClose: () => void }) {
  const client = useQueryClient();
  const [wish, setWish] = useState({ name: "", role: "viewer" as Schema<"Role">, areas: [] as string[], days: "90" });
  const making = useMutation({
    mutationFn: () => {
      const { days, ...rest } = wish;
      return make({ ...rest, name: wish.name.trim(), expires_in_seconds: Number(days) * DAY });
    },
    onSuccess: () => void client.invalidateQueries({ queryKey: tokensQuery.queryKey }),
  });
  const made = making.data;
  const details = making.error instanceof ApiError ? making.error.details : [];
  const wrong = (field: string) => details.find((one) => one.field === `body.${field}`)?.message;
  return (
    <Modal
      visible
      header={made ? "Your new token" : "Make a token"}
      onDismiss={onClose}
      footer={
        <Box float="right">
          {made ? (
            <Button variant="primary" onClick={onClose}>
              I have copied it
            </Button>
          ) : (
            <SpaceBetween direction="horizontal" size="xs">
              <Button variant="link" onClick={onClose}>
                Cancel
              </Button>
              <Button
                variant="primary"
                disabled={!wish.name.trim()}
                loading={making.isPending}
                onClick={() => making.mutate()}
              >
                Make it
              </Button>
            </SpaceBetween>
          )}
        </Box>
      }
    >
      {made ? (
        <SpaceBetween size="m">
          <Alert type="warning">Copy it now: it is shown this once, and nobody can look it up.</Alert>
          <CopyToClipboard
            variant="inline"
            textToCopy={made.token}
            copyButtonAriaLabel="Copy the token"
            copySuccessText="Copied"
            copyErrorText="It could not be copied: mark it and copy it by hand"
          />
          <Box variant="small">
            Send it as <code>Authorization: Bearer …</code>
          </Box>
        </SpaceBetween>
      ) : (
        <SpaceBetween size="m">
          {making.error && details.length === 0 && <Failure problem={making.error} />}
          <Wish wish={wish} onChange={setWish} wrong={wrong} />
        </SpaceBetween>
      )}
    </Modal>
  );
}
