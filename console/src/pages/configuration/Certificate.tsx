import Alert from "@cloudscape-design/components/alert";
import KeyValuePairs from "@cloudscape-design/components/key-value-pairs";
import SpaceBetween from "@cloudscape-design/components/space-between";
import StatusIndicator from "@cloudscape-design/components/status-indicator";

import type { Schema } from "../../api/client";
import { Time } from "../../components/Time";

/** What the server read in the files that the form names. */
export function Certificate({ certificate }: { certificate: Schema<"CertificateView"> | null | undefined }) {
  if (!certificate) return null;
  return (
    <SpaceBetween size="m">
      <StatusIndicator type={certificate.warning ? "warning" : "success"}>
        The server can read this certificate and its key, and they belong together
      </StatusIndicator>
      {certificate.warning && <Alert type="warning">{certificate.warning}</Alert>}
      <KeyValuePairs
        columns={3}
        items={[
          { label: "Subject", value: certificate.subject },
          { label: "Names", value: certificate.names.join(", ") || "none: browsers will not trust it" },
          { label: "Valid from", value: <Time at={certificate.not_before} /> },
          { label: "Valid until", value: <Time at={certificate.not_after} /> },
          { label: "SHA-256", value: <code className="fingerprint">{certificate.sha256}</code> },
        ]}
      />
    </SpaceBetween>
  );
}
