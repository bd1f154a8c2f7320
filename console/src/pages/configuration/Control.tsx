/** The control of one setting. */
import AttributeEditor from "@cloudscape-design/components/attribute-editor";
import Input from "@cloudscape-design/components/input";
import Select from "@cloudscape-design/components/select";
import SpaceBetween from "@cloudscape-design/components/space-between";
import Textarea from "@cloudscape-design/components/textarea";
import Toggle from "@cloudscape-design/components/toggle";
import limits from "virtual:limits";

import type { Input as Held, Tag } from "./draft";
import type { Section, Setting } from "./sections";

type Props = {
  section: Section;
  field: string;
  setting: Setting;
  held: Held;
  onChange: (held: Held) => void;
};
const MOST_TAGS = 40;

export function Control({ section, field, setting, held, onChange }: Props) {
  switch (setting.kind) {
    case "switch":
      return (
        <SpaceBetween direction="horizontal" size="xs">
          <Toggle checked={held === true} onChange={({ detail }) => onChange(detail.checked)} />
          <span aria-hidden="true">{held === true ? "On" : "Off"}</span>
        </SpaceBetween>
      );
    case "choice": {
      const options = (limits[section]?.[field]?.choices ?? []).map((value) => ({ value }));
      return (
        <Select
          selectedOption={{ value: String(held) }}
          options={options}
          onChange={({ detail }) => onChange(detail.selectedOption.value ?? "")}
        />
      );
    }
    case "lines":
      return (
        <Textarea
          value={String(held)}
          rows={Math.max(2, String(held).split("\n").length)}
          placeholder={setting.example}
          spellcheck={false}
          onChange={({ detail }) => onChange(detail.value)}
        />
      );
    case "tags":
      return <Tags tags={held as Tag[]} onChange={onChange} />;
    default:
      return (
        <Input
          value={String(held)}
          inputMode={setting.kind === "integer" ? "numeric" : "text"}
          placeholder={setting.example}
          spellcheck={false}
          autoComplete={false}
          onChange={({ detail }) => onChange(detail.value)}
        />
      );
  }
}

function Tags({ tags, onChange }: { tags: Tag[]; onChange: (tags: Tag[]) => void }) {
  const put = (index: number, change: Partial<Tag>) =>
    onChange(tags.map((tag, at) => (at === index ? { ...tag, ...change } : tag)));
  return (
    <AttributeEditor
      items={tags}
      addButtonText="Add a tag"
      removeButtonText="Remove"
      empty="No tags."
      disableAddButton={tags.length >= MOST_TAGS}
      onAddButtonClick={() => onChange([...tags, { key: "", value: "" }])}
      onRemoveButtonClick={({ detail }) => onChange(tags.filter((_, at) => at !== detail.itemIndex))}
      definition={[
        {
          label: "Name",
          control: (tag, index) => (
            <Input value={tag.key} ariaLabel="Name" onChange={({ detail }) => put(index, { key: detail.value })} />
          ),
        },
        {
          label: "Value",
          control: (tag, index) => (
            <Input value={tag.value} ariaLabel="Value" onChange={({ detail }) => put(index, { value: detail.value })} />
          ),
        },
      ]}
    />
  );
}
