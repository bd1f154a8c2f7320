/** One setting with its name, help, limits, and what is wrong with it. */
import Box from "@cloudscape-design/components/box";
import FormField from "@cloudscape-design/components/form-field";
import limits from "virtual:limits";

import { count, duration } from "../../format";
import { Control } from "./Control";
import { shortDuration, type Input } from "./draft";
import type { Checked, Configuration } from "./queries";
import type { Kind, Section, Setting as Defined } from "./sections";
import { shown } from "./shown";

type Props = {
  section: Section;
  field: string;
  setting: Defined;
  held: Input;
  edited: boolean;
  overridden: Configuration["overridden"];
  problems: Checked["problems"];
  onChange: (held: Input) => void;
};

export function Setting({ section, field, setting, held, edited, overridden, problems, onChange }: Props) {
  const name = `${section}.${field}`;
  const wins = overridden.find((one) => one.field === name);
  const problem = problems.find((one) => one.field === name);
  return (
    <FormField
      label={
        <>
          {setting.label}
          {setting.unit && <Box variant="span" color="text-body-secondary" fontWeight="normal">{` (${setting.unit})`}</Box>}
          {edited && <Box variant="span" color="text-status-info" fontWeight="normal">{" · not saved"}</Box>}
        </>
      }
      description={setting.help}
      constraintText={limitsOf(section, field, setting)}
      errorText={problem?.message}
      warningText={
        wins && `This server goes by ${shown(name, wins.value)}: ${wins.variable} in its environment wins over this.`
      }
      stretch={setting.kind === "tags"}
      data-field={name}
    >
      <Control section={section} field={field} setting={setting} held={held} onChange={onChange} />
    </FormField>
  );
}

/** `1 to 20. Default: 2.` */
function limitsOf(section: Section, field: string, { kind, zero, unit }: Defined): string | undefined {
  const of = limits[section]?.[field];
  if (!of || kind === "switch") return undefined;
  const parts: string[] = [];
  if (kind === "integer" && of.minimum != null && of.maximum != null)
    parts.push(`${count(of.minimum)} to ${count(of.maximum)}${unit ? ` ${unit}` : ""}.`);
  if (kind === "duration") parts.push(`Such as 90s, 15m or 1h30m; at most ${duration(of.maximum)}.`);
  if (zero) parts.push(zero);
  if (of.default != null && of.default !== "") parts.push(`Default: ${defaultOf(`${section}.${field}`, kind, of.default)}.`);
  return parts.join(" ") || undefined;
}

/** A duration as one would type it. */
const defaultOf = (name: string, kind: Kind, value: unknown): string =>
  kind === "duration" && typeof value === "number" ? shortDuration(value) : shown(name, value);
