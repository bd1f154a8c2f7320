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
        for_jobs: {
          kind: "lines",
          label: "Which jobs get one",
          help: "Rules, one a line, of which one must hold; none: all jobs. The conditions of a rule must all hold: queue=NAME, name=NAME (* for any characters), vcpus>=N, vcpus<=N, memory>=MIB, memory<=MIB. The others' checkpoints go to the store; without a store they run unprotected.",
          example: "queue=genomics-* memory>=8192",
          none: "all jobs",
        },
        volume_type: { kind: "choice", label: "Type", help: "EBS volume type." },
        size_gib: {
          kind: "integer",
          label: "Size",
          unit: "GiB",
          help: "It must hold what the job writes and its checkpoints: about its memory, twice.",
          zero: "0: by the memory that the job asks for, at least 100 GiB.",
        },
        grow_to_gib: {
          kind: "integer",
          label: "Grow to",
          unit: "GiB",
          help: "A volume that is nearly full is made larger while its job runs, by half, up to this. EC2 allows few changes of one volume in a day.",
          zero: "0: never.",
        },
        iops: {
          kind: "integer",
          label: "Operations a second (IOPS)",
          help: "io1 and io2 need a number; gp3 has 3,000 by itself. AWS charges for more.",
          zero: "0: what the type has by itself, or what the throughput needs.",
        },
        throughput_mib_per_second: {
          kind: "integer",
          label: "Throughput",
          unit: "MiB/s",
          help: "gp3 alone: 125 to 2,000, at most a quarter of IOPS. A final checkpoint writes a job's memory within two minutes or not at all. AWS charges for more than 125.",
          zero: "0: by the memory that the job asks for, so that all of it is written in 90 s; 125 to 1,000.",
        },
        encrypted: { kind: "switch", label: "Encrypted", help: "Off: as the account's default says." },
        kms_key: {
          kind: "text",
          label: "KMS key",
          help: "Id, ARN or alias; empty: the account's default for EBS. The server's role must be allowed to use it.",
          example: "alias/jobs",
          none: "the account's default",
        },
      },
    },
    {
      title: "Change of zone",
      settings: {
        zone_snapshot_seconds: {
          kind: "duration",
          label: "Between snapshots while a job runs",
          help: "With them, a change of zone moves only what changed since. None is taken where little changed, or where they would cost more than a tenth of the instance.",
          example: "30m",
          zero: "0: none; a change of zone moves the whole volume.",
        },
        initialization_mib_per_second: {
          kind: "integer",
          label: "Initialization rate",
          unit: "MiB/s",
          help: "After a change of zone, EBS fills the new volume by itself at 100 to 300 MiB/s. AWS charges for it. 0: blocks come when they are first touched.",
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
