import Alert from "@cloudscape-design/components/alert";
import Button from "@cloudscape-design/components/button";

import { Time } from "../../components/Time";
import { useInView } from "../../hooks";
import { rebased, type Fields } from "./draft";
import type { Change } from "./drafts";
import type { Configuration } from "./queries";
import type { Section } from "./sections";
import { nameOf } from "./shown";

type Props = {
  section: Section;
  now: Configuration;
  fields: string[];
  onDraft: (change: Change) => void;
};

/** Somebody saved other settings of this section while this person typed: nothing to choose, but good to know. */
export function Theirs({ section, now, fields, onDraft }: Props) {
  return (
    <div ref={useInView()}>
    <Alert
      type="info"
      header="Somebody changed other settings here meanwhile"
      action={<Button onClick={() => onDraft((draft) => draft && rebased(section, draft, now[section] as Fields))}>Understood</Button>}
    >
      {now.changed_by} changed {fields.map((field) => nameOf(`${section}.${field}`)).join(", ")} on{" "}
      <Time at={now.changed_at} />. The form shows these values. Your changes are as you typed them.
    </Alert>
    </div>
  );
}
