import { describe, expect, it } from "vitest";
import limits from "virtual:limits";

import { FORMS, SECTIONS } from "./sections";
import { validateConfigurationSearch, type Tab } from "./search";

describe.each(SECTIONS)("the form %s", (section) => {
  const settings = FORMS[section].groups.flatMap((group) => Object.entries(group.settings));

  it.each(settings)("knows what the API allows for %s", (field, { kind }) => {
    expect(limits[section]?.[field]).toBeDefined();
    if (kind === "choice") expect(limits[section]?.[field]?.choices?.length).toBeGreaterThan(1);
  });

  it("has an address", () => expect(validateConfigurationSearch({ tab: section })).toEqual({ tab: section as Tab }));
});
