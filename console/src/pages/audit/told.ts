import type { Schema } from "../../api/client";

/** `{fields: [a, b], role: admin}` → `fields: a, b; role: admin`. */
export function told(detail: Schema<"AuditLineView">["detail"]): string {
  return Object.entries(detail)
    .map(([name, value]) => `${name}: ${Array.isArray(value) ? value.join(", ") || "none" : String(value)}`)
    .join("; ");
}
