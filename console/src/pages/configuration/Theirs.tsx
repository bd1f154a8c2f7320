import Alert from "@cloudscape-design/components/alert";
import Button from "@cloudscape-design/components/button";

import { Time } from "../../components/Time";
import { useInView } from "../../hooks";
import { rebased, type Draft, type Fields } from "./draft";
import type { Configuration } from "./queries";
import type { Section } from "./sections";
import { nameOf } from "./shown";

type Props = {
  section: Section;
  now: Configuration;
  draft: Draft;
  fields: string[];
  onDraft: (draft: Draft | undefined) => void;
};

/** Somebody saved other settings of this section while this person typed: nothing to choose, but good to know. */
export function Theirs({ section, now, draft, fields, onDraft }: Props) {
  return (
    <div ref={useInView()}>
    <Alert
      type="info"
      header="Somebody changed other settings here meanwhile"
      action={<Button onClick={() => onDraft(rebased(section, draft, now[section] as Fields))}>Understood</Button>}
    >
      {now.changed_by} changed {fields.map((field) => nameOf(`${section}.${field}`)).join(", ")} on{" "}
      <Time at={now.changed_at} />. The form shows these values. Your changes are as you typed them.
    </Alert>
    </div>
  );
}
