/** What Perdure's own programs log. */
import { form } from "./form";

export const log = form<"log">()(
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
);
