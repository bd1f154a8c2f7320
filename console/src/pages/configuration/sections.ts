/** The five forms: which settings, in which groups, called how. A setting that the API gains is missed by the compiler. */
import type { Schema } from "../../api/client";

export type Values = {
  checkpoint: Schema<"CheckpointConfiguration">;
  job_volume: Schema<"JobVolumeConfiguration">;
  log: Schema<"LogConfiguration">;
  server: Schema<"ServerConfiguration">;
  cognito: Schema<"CognitoConfiguration">;
};
export type Section = keyof Values;

/** `lines`: a list, one entry a line. `tags`: names with values. `path`: text, or nothing. */
export type Kind = "switch" | "duration" | "integer" | "text" | "path" | "choice" | "lines" | "tags";
export type Setting = { kind: Kind; label: string; help: string; unit?: string; example?: string; zero?: string };
type Group<S extends Section> = { title: string; settings: Partial<Record<keyof Values[S], Setting>> };
export type Form = { title: string; about: string; groups: { title: string; settings: Record<string, Setting> }[] };

type Keys<T> = T extends unknown ? keyof T : never;
/** Every setting of a section but the one that has no effect. */
type Missing<S extends Section, G extends readonly Group<S>[]> = Exclude<
  keyof Values[S],
  Keys<G[number]["settings"]> | "identity_pool_id"
>;
type Complete<S extends Section, G extends readonly Group<S>[]> =
  Missing<S, G> extends never ? unknown : { missing: Missing<S, G> };

const form = <S extends Section>() =>
  <const G extends readonly Group<S>[]>(title: string, about: string, groups: G & Complete<S, G>): Form => ({
    title,
    about,
    groups: groups as unknown as Form["groups"],
  });

export const FORMS: Record<Section, Form> = {
  checkpoint: form<"checkpoint">()(
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
            help: "Time between periodic checkpoints of a job. If a node dies without a notice, a job loses at most this much work.",
            example: "15m",
            zero: "0: no periodic checkpoints; the final one on a Spot notice is still taken.",
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
            help: "Keep volumes and checkpoints of finished jobs, to look into failures. Each volume costs money until you delete it.",
          },
        },
      },
      {
        title: "How",
        settings: {
          predump: {
            kind: "switch",
            label: "Copy memory before the freeze",
            help: "Where the kernel notes changed memory: the job runs on while most of it is copied, so the freeze is short.",
          },
          memory_chain: {
            kind: "integer",
            label: "Incremental checkpoints in a row",
            help: "Where the kernel notes changed memory: all but the first of a row hold only what changed. 1: each holds everything.",
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
  ),
  job_volume: form<"job_volume">()(
    "Job volume",
    "The managed EBS volume of each job: its root layer, its data and its checkpoints. A change holds for volumes made from now on.",
    [
      {
        title: "Volume",
        settings: {
          enabled: {
            kind: "switch",
            label: "Managed volumes",
            help: "Off: jobs that have no volume yet run unprotected, each with an event that says so. Volumes that exist are used on.",
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
  ),
  log: form<"log">()(
    "Log",
    "What Perdure's own programs log. A change takes effect within seconds, without a restart. What jobs print is not touched.",
    [
      {
        title: "Level",
        settings: {
          level: { kind: "choice", label: "Level", help: "The least important lines that are written." },
        },
      },
      {
        title: "Files of the server and the control worker",
        settings: {
          max_size_mb: { kind: "integer", label: "File size", unit: "MB", help: "A log file is rotated at this size." },
          max_backups: { kind: "integer", label: "Rotated files", help: "As many are kept of each log." },
        },
      },
      {
        title: "Files of an agent on a node",
        settings: {
          node_max_size_mb: {
            kind: "integer",
            label: "File size on nodes",
            unit: "MB",
            help: "A log file of an agent is rotated at this size.",
          },
          node_total_mb: {
            kind: "integer",
            label: "All files on a node",
            unit: "MB",
            help: "An agent keeps fewer rotated files if all of them would take more.",
          },
        },
      },
    ],
  ),
  server: form<"server">()(
    "Server",
    "Where this server listens, and how long it remembers. Each change is tried before it is stored.",
    [
      {
        title: "Address",
        settings: {
          address: {
            kind: "text",
            label: "Address",
            help: "IP address to listen on; 0.0.0.0 and :: are all of this machine's. Any but loopback needs a sign-in and a certificate. Takes effect after a restart.",
            example: "0.0.0.0",
          },
          port: { kind: "integer", label: "Port", help: "TCP port. Takes effect after a restart." },
        },
      },
      {
        title: "Certificate",
        settings: {
          cert_file: {
            kind: "path",
            label: "Certificate file",
            help: "Path on the server: PEM, with its chain. Empty: plain HTTP.",
            example: "/etc/perdure/server.crt",
          },
          key_file: {
            kind: "path",
            label: "Private key file",
            help: "Path on the server: PEM, unencrypted, not readable by everybody. It belongs to the certificate.",
            example: "/etc/perdure/server.key",
          },
        },
      },
      {
        title: "How long records are kept",
        settings: {
          keep_succeeded_seconds: {
            kind: "duration",
            label: "Jobs that succeeded",
            help: "Counted from the end of the job. Totals are kept anyhow.",
            example: "72h",
            zero: "0: for ever.",
          },
          keep_failed_seconds: {
            kind: "duration",
            label: "Jobs that failed or were stopped",
            help: "Counted from the end of the job. Totals are kept anyhow.",
            example: "168h",
            zero: "0: for ever.",
          },
          keep_volume_seconds: {
            kind: "duration",
            label: "Volumes of jobs that are over",
            help: "Where one was kept to resume or examine the job. Counted from the end of the job; then it is deleted.",
            example: "168h",
            zero: "0: until a person deletes it.",
          },
          keep_audit_seconds: {
            kind: "duration",
            label: "Lines of the audit log",
            help: "Who changed what, and who was refused.",
            example: "8760h",
            zero: "0: for ever.",
          },
        },
      },
    ],
  ),
  cognito: form<"cognito">()(
    "Cognito",
    "Sign-in with an Amazon Cognito user pool. No AWS keys are needed. A change takes effect at once.",
    [
      {
        title: "Sign-in",
        settings: {
          enabled: {
            kind: "switch",
            label: "Sign-in with Cognito",
            help: "On: nobody gets in without signing in, not even on this machine. Try a sign-in first.",
          },
        },
      },
      {
        title: "User pool",
        settings: {
          region: { kind: "text", label: "Region", help: "AWS region of the pool.", example: "us-east-1" },
          user_pool_id: { kind: "text", label: "User pool id", help: "As the pool's page in AWS shows it.", example: "us-east-1_aB3dE5" },
          client_id: {
            kind: "text",
            label: "App client id",
            help: "The pool's app client for Perdure. It must have no secret.",
          },
          domain: {
            kind: "text",
            label: "Hosted page",
            help: "Base address of the pool's own sign-in page. Empty: user name and password only.",
            example: "https://my-perdure.auth.us-east-1.amazoncognito.com",
          },
        },
      },
      {
        title: "Who may do what",
        settings: {
          admin_groups: {
            kind: "lines",
            label: "Groups of administrators",
            help: "Members change things. One group a line.",
          },
          viewer_groups: {
            kind: "lines",
            label: "Groups of viewers",
            help: "Members read. Empty: everyone of the pool reads. One group a line.",
          },
        },
      },
    ],
  ),
};

export const SECTIONS = Object.keys(FORMS) as Section[];

/** The setting that a field of the API's answers names, such as `checkpoint.keep`. */
export function settingOf(field: string): { form: Form; setting: Setting | undefined } | undefined {
  const [section, name] = field.split(".") as [Section, string];
  const form = FORMS[section];
  return form && { form, setting: form.groups.map((group) => group.settings[name]).find(Boolean) };
}
