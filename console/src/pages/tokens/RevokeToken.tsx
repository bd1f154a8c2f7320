import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import Modal from "@cloudscape-design/components/modal";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { useMutation, useQueryClient } from "@tanstack/react-query";

import { Failure } from "../../components/Failure";
import { useNotices } from "../../components/notices";
import { revoke, tokensQuery, type Token } from "./queries";

export function RevokeToken({ token, onClose }: { token: Token; onClose: () => void }) {
  const client = useQueryClient();
  const { say } = useNotices();
  const revoking = useMutation({
    mutationFn: () => revoke(token.number),
    onSuccess: () => {
      void client.invalidateQueries({ queryKey: tokensQuery.queryKey });
      say({ type: "success", content: `“${token.name}” (token ${token.number}) opens nothing any more.` });
      onClose();
    },
  });
  return (
    <Modal
      visible
      header={`Revoke “${token.name}”?`}
      onDismiss={onClose}
      footer={
        <Box float="right">
          <SpaceBetween direction="horizontal" size="xs">
            <Button variant="link" onClick={onClose}>
              Cancel
            </Button>
            <Button variant="primary" loading={revoking.isPending} onClick={() => revoking.mutate()}>
              Revoke
            </Button>
          </SpaceBetween>
        </Box>
      }
    >
      <SpaceBetween size="m">
        {revoking.error && <Failure problem={revoking.error} />}
        <Box>
          Scripts that use it are refused from their next request on. This cannot be taken back. Tokens that it made stay
          good.
        </Box>
      </SpaceBetween>
    </Modal>
  );
}
