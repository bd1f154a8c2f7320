/** Values of settings as people read them. */
import { duration } from "../../format";
import { settingOf } from "./sections";

/** `checkpoint.keep` → `Checkpoint: Checkpoints per job`. */
export function nameOf(field: string): string {
  const found = settingOf(field);
  return found?.setting ? `${found.form.title}: ${found.setting.label}` : field;
}

/** A value of that field: `900` of an interval → `15 min`. */
export function shown(field: string, value: unknown): string {
  const setting = settingOf(field)?.setting;
  if (value === true) return "on";
  if (value === false) return "off";
  const none = setting?.none ?? "none";
  if (value == null || value === "") return none;
  if (setting?.kind === "duration" && typeof value === "number")
    return value === 0 ? "0" : duration(value);
  if (Array.isArray(value)) return value.length > 0 ? value.join(", ") : none;
  if (typeof value === "object") {
    const tags = Object.entries(value).map(([key, text]) => `${key} = ${String(text)}`);
    return tags.length > 0 ? tags.join(", ") : none;
  }
  // `0: by the memory that the job asks for, at least 100 GiB.`
  if (value === 0 && setting?.zero) return setting.zero.replace(/^0: /, "").split(/[,;.]/)[0]!;
  return setting?.unit ? `${String(value)} ${setting.unit}` : String(value);
}
