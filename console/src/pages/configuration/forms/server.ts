/** Where the server listens, and how long it remembers. */
import { form } from "./form";

export const server = form<"server">()(
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
        orphan_grace_seconds: {
          kind: "duration",
          label: "Volumes and snapshots that no job owns",
          help: "Counted from when the hourly look found one; then it is deleted. Only those that this installation made.",
          example: "24h",
          zero: "0: they are listed and never deleted.",
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
);
