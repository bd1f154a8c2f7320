/** The managed volume of each job. */
import { form } from "./form";

export const jobVolume = form<"job_volume">()(
  "Job volume",
  "The managed EBS volume of each job: its root layer, its data and its checkpoints. A change holds for volumes made from now on.",
  [
    {
      title: "Volume",
      settings: {
        enabled: {
          kind: "switch",
          label: "Managed volumes",
          help: "Off: checkpoints of jobs that have no volume yet go to the store; without a store these jobs run unprotected. Volumes that exist are used on.",
        },
        volume_type: { kind: "choice", label: "Type", help: "EBS volume type." },
        size_gib: {
          kind: "integer",
          label: "Size",
          unit: "GiB",
          help: "It must hold what the job writes and its checkpoints: about its memory, twice.",
        },
      },
    },
    {
      title: "In the container",
      settings: {
        mount_path: {
          kind: "text",
          label: "Mount path",
          help: "Where the job sees its volume: an absolute path inside the container.",
          example: "/mnt/perdure",
        },
        scratch: {
          kind: "lines",
          label: "Scratch folders",
          help: "Host folders that jobs mount as scratch. Each job gets its own, empty, on its volume instead. One path a line.",
          example: "/scratch",
        },
      },
    },
    {
      title: "Tags",
      settings: {
        tags: {
          kind: "tags",
          label: "Custom tags",
          help: "Put on every volume and snapshot. At most 40; names must not begin with aws: or perdure:.",
        },
      },
    },
  ],
);
