import type { Schema } from "../../api/client";

/** `{fields: [a, b], role: admin}` → `fields: a, b; role: admin`. A token without areas may ask for all. */
export function told(detail: Schema<"AuditLineView">["detail"]): string {
  return Object.entries(detail)
    .map(([name, value]) => `${name}: ${Array.isArray(value) ? value.join(", ") || (name === "areas" ? "all" : "none") : String(value)}`)
    .join("; ");
}
