/** Somebody saved the same settings while this person typed: their value, yours, and a choice for each. */
import Alert from "@cloudscape-design/components/alert";
import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import FormField from "@cloudscape-design/components/form-field";
import SpaceBetween from "@cloudscape-design/components/space-between";
import Tiles from "@cloudscape-design/components/tiles";
import { useState } from "react";

import { Time } from "../../components/Time";
import { useInView } from "../../hooks";
import { rebased, type Conflict as Found, type Fields } from "./draft";
import type { Change } from "./drafts";
import type { Configuration } from "./queries";
import type { Section } from "./sections";
import { nameOf, shown } from "./shown";

type Props = {
  section: Section;
  now: Configuration;
  conflicts: Found[];
  onDraft: (change: Change) => void;
};
type Choice = "theirs" | "yours";

export function Conflict({ section, now, conflicts, onDraft }: Props) {
  const [chosen, setChosen] = useState<Record<string, Choice>>({});
  const open = conflicts.filter(({ field }) => !chosen[field]).length;

  function settle() {
    const taken = new Set(conflicts.filter(({ field }) => chosen[field] === "theirs").map(({ field }) => field));
    onDraft((draft) => draft && rebased(section, draft, now[section] as Fields, taken));
  }

  return (
    <div ref={useInView()}>
      <Alert type="warning" header="Somebody changed this meanwhile">
      <SpaceBetween size="m">
        <Box>
          {now.changed_by} saved other values on <Time at={now.changed_at} />. Choose for each setting which value is to
          hold. Nothing is saved yet.
        </Box>
        {conflicts.map(({ field, before, theirs, yours }) => {
          const name = `${section}.${field}`;
          return (
            <FormField key={field} label={nameOf(name)} description={`Before: ${shown(name, before)}`} stretch>
              <Tiles
                value={chosen[field] ?? null}
                columns={2}
                items={[
                  { value: "theirs", label: `Theirs: ${shown(name, theirs)}`, description: "It holds now." },
                  { value: "yours", label: `Yours: ${shown(name, yours)}`, description: "It replaces theirs when you save." },
                ]}
                onChange={({ detail }) => setChosen({ ...chosen, [field]: detail.value as Choice })}
              />
            </FormField>
          );
        })}
        <Button disabled={open > 0} disabledReason="Choose a value for each setting." onClick={settle}>
          Go on with these values
        </Button>
      </SpaceBetween>
    </Alert>
    </div>
  );
}
