import Container from "@cloudscape-design/components/container";
import Header from "@cloudscape-design/components/header";
import KeyValuePairs from "@cloudscape-design/components/key-value-pairs";

import type { Schema } from "../../api/client";
import { Time } from "../../components/Time";
import { bytes, count, dollars } from "../../format";

const ENDED: Record<string, string> = { aws: "AWS took it back", user: "Ended by its owner" };
const MIB = 1024 * 1024;

export function Facts({ node }: { node: Schema<"NodeDetail"> }) {
  const cpu = [node.cpu_vendor, node.cpu_model].filter(Boolean).join(", ");
  return (
    <Container header={<Header variant="h2">Overview</Header>}>
      <KeyValuePairs
        columns={4}
        items={[
          { label: "Jobs that ran on it", value: count(node.jobs) },
          { label: "Containers of these jobs", value: count(node.attempts) },
          { label: "Checkpoints taken on it", value: count(node.checkpoints) },
          {
            label: "Cost of its jobs' parts",
            value: `${dollars(node.cost_usd)}${node.cost_estimated ? " (estimated)" : ""}`,
          },
          { label: "Paid as", value: node.pay_type || "not known" },
          { label: "Launched", value: <Time at={node.launched_at} missing="not known" /> },
          { label: "First seen", value: <Time at={node.first_seen_at} /> },
          {
            label: "Ended",
            value: node.ended_at ? (
              <>
                <Time at={node.ended_at} /> {ENDED[node.ended_by] ?? ""}
              </>
            ) : (
              "no"
            ),
          },
          { label: "vCPUs", value: node.vcpus ?? "not known" },
          { label: "Memory", value: node.memory_mib ? bytes(node.memory_mib * MIB) : "not known" },
          { label: "CPU", value: cpu || node.arch || "not known" },
          { label: "Agent", value: node.agent_version || "not known" },
          { label: "Host name", value: node.host_name || "not known" },
          { label: "Addresses", value: node.ips.join(", ") || "not known" },
        ]}
      />
    </Container>
  );
}
