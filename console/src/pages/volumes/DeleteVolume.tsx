import Box from "@cloudscape-design/components/box";
import { useMutation, useQueryClient } from "@tanstack/react-query";

import { api, wanted } from "../../api/client";
import { Confirm } from "../../components/Confirm";
import { useNotices } from "../../components/notices";
import type { Volume } from "./columns";

/** A kept volume goes, with the checkpoints on it. */
export function DeleteVolume({ volume, onClose }: { volume: Volume; onClose: () => void }) {
  const client = useQueryClient();
  const { say } = useNotices();
  const { volume_id, job_name, job_id } = volume;
  const deleting = useMutation({
    mutationFn: () => wanted(api.DELETE("/api/v1/volumes/{volume_id}", { params: { path: { volume_id } } })),
    onSuccess: () => {
      say({ type: "success", content: `${volume_id} is deleted.` });
      onClose();
    },
    onSettled: () => client.invalidateQueries({ queryKey: ["volumes"] }),
  });
  return (
    <Confirm
      title={`Delete ${volume_id}?`}
      deed="Delete"
      busy={deleting.isPending}
      problem={deleting.error}
      onConfirm={() => deleting.mutate()}
      onClose={onClose}
    >
      <Box>
        The checkpoints of <b>{job_name || job_id}</b> go with it: the job cannot be resumed any more. Nothing brings
        them back.
      </Box>
    </Confirm>
  );
}
