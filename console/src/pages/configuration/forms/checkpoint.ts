/** When checkpoints are taken, what is kept of them, and how. */
import { form } from "./form";

export const checkpoint = form<"checkpoint">()(
  "Checkpoint",
  "When checkpoints are taken and what is kept. A job's own environment wins over this. Running jobs hear of a change at once.",
  [
    {
      title: "When",
      settings: {
        enabled: {
          kind: "switch",
          label: "Checkpoints",
          help: "Off: nothing is saved, neither periodically nor on a Spot notice. A reclaimed job starts anew.",
        },
        interval_seconds: {
          kind: "duration",
          label: "Interval",
          help: "Time between periodic checkpoints of a job. If a node dies without a notice, a job loses at most this much work, and what it did while the newest checkpoint was written.",
          example: "15m",
          zero: "0: no periodic checkpoints; the final one on a Spot notice is still taken.",
        },
        shortest_interval_seconds: {
          kind: "duration",
          label: "Shortest interval",
          help: "An instance may shorten the interval down to this by itself, so that a final checkpoint is written within half of a notice.",
          example: "2m",
          zero: "0: the interval is kept.",
        },
        dump_limit_seconds: {
          kind: "duration",
          label: "Longest dump",
          help: "A dump that takes longer is ended and the job goes on. A Spot notice leaves two minutes.",
          example: "110s",
        },
      },
    },
    {
      title: "What is kept",
      settings: {
        keep: {
          kind: "integer",
          label: "Checkpoints per job",
          help: "The newest ones stay. If the newest cannot be restored, the one before is tried.",
        },
        reserve_mib: {
          kind: "integer",
          label: "Reserve",
          unit: "MiB",
          help: "Space of the job volume that no checkpoint may use.",
        },
        diagnosis: {
          kind: "switch",
          label: "Diagnosis",
          help: "Keep volumes and checkpoints of finished jobs, to look into failures. Each volume costs money until its time is over (Server) or you delete it.",
        },
      },
    },
    {
      title: "How",
      settings: {
        deregister_instance: {
          kind: "switch",
          label: "Take reclaimed instances off their cluster",
          help: "Where all jobs of an instance are safe and wait for its end (their retry rules only know Host EC2*): Batch then need not find out by itself, which may take 20 minutes. Not tried on AWS.",
        },
        rehearsal: {
          kind: "switch",
          label: "Rehearse restores",
          help: "A job's first checkpoint, and one after its programs, open files or mounts have changed, is restored beside the running job, looked at and thrown away: at low priority, where memory is free.",
        },
        lazy_restore: {
          kind: "switch",
          label: "Go on before all memory is there",
          help: "A restored job goes on while most of its memory is still being read; each page is verified before the job sees it. No checkpoint is taken before all is there. A failure on the way costs an attempt, so it is done only where Batch starts a job again after exit code 137.",
        },
        predump: {
          kind: "switch",
          label: "Copy memory before the freeze",
          help: "Where the kernel notes changed memory: the job runs on while most of it is copied, so the freeze is short.",
        },
        full_every: {
          kind: "integer",
          label: "Whole checkpoints",
          help: "Where the job volume can share unchanged memory between checkpoints (XFS): of so many in a row, one is written whole, so that one bad block does not damage all. 1: none shares anything.",
        },
        own_network: {
          kind: "switch",
          label: "A network of its own for each job",
          help: "The job keeps its address on every node: NAT to the outside, no way in. Off: it shares the network of its host.",
        },
        refuse_io_uring: {
          kind: "switch",
          label: "Refuse io_uring",
          help: "io_uring cannot be saved. Programs that are refused it fall back to epoll.",
        },
      },
    },
  ],
);
