/** The forms: which settings, in which groups, called how. */
import { checkpoint } from "./forms/checkpoint";
import { cognito } from "./forms/cognito";
import { jobVolume } from "./forms/jobVolume";
import { log } from "./forms/log";
import { server } from "./forms/server";
import { store } from "./forms/store";
import type { Form, Section, Setting } from "./forms/form";

export type { Form, Kind, Section, Setting } from "./forms/form";

export const FORMS: Record<Section, Form> = {
  checkpoint,
  job_volume: jobVolume,
  store,
  log,
  server,
  cognito,
};

export const SECTIONS = Object.keys(FORMS) as Section[];

/** The setting that a field of the API's answers names, such as `checkpoint.keep`. */
export function settingOf(field: string): { form: Form; setting: Setting | undefined } | undefined {
  const [section, name] = field.split(".") as [Section, string];
  const form = FORMS[section];
  return form && { form, setting: form.groups.map((group) => group.settings[name]).find(Boolean) };
}
