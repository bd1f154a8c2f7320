/** The settings of a section for those who may not change them: no control that would be refused. */
import Container from "@cloudscape-design/components/container";
import Header from "@cloudscape-design/components/header";
import KeyValuePairs from "@cloudscape-design/components/key-value-pairs";
import SpaceBetween from "@cloudscape-design/components/space-between";

import type { Fields } from "./draft";
import type { Configuration } from "./queries";
import { FORMS, type Section } from "./sections";
import { shown } from "./shown";

export function Settings({ section, now }: { section: Section; now: Configuration }) {
  const held = now[section] as Fields;
  const valueOf = (field: string) => {
    const name = `${section}.${field}`;
    const wins = now.overridden.find((one) => one.field === name);
    return wins ? `${shown(name, wins.value)} (by ${wins.variable} of the server)` : shown(name, held[field]);
  };
  return (
    <SpaceBetween size="l">
      {FORMS[section].groups.map((group) => (
        <Container key={group.title} header={<Header variant="h2">{group.title}</Header>}>
          <KeyValuePairs
            columns={2}
            items={Object.entries(group.settings).map(([field, setting]) => ({
              label: setting.label,
              value: valueOf(field),
            }))}
          />
        </Container>
      ))}
    </SpaceBetween>
  );
}
