import FormField from "@cloudscape-design/components/form-field";
import Input from "@cloudscape-design/components/input";
import Multiselect from "@cloudscape-design/components/multiselect";
import RadioGroup from "@cloudscape-design/components/radio-group";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { areas } from "virtual:limits";

import type { Schema } from "../../api/client";

type Wished = { name: string; role: Schema<"Role">; areas: string[]; days: string };
type Props = { wish: Wished; onChange: (wish: Wished) => void; wrong: (field: string) => string | undefined };

/** What a new token may do, and for how long. */
export function Wish({ wish, onChange, wrong }: Props) {
  const put = (change: Partial<Wished>) => onChange({ ...wish, ...change });
  return (
    <SpaceBetween size="m">
      <FormField
        label="What it is for"
        description="The audit log shows it."
        constraintText="Letters, digits, spaces and . _ @ -; at most 60 characters."
        errorText={wrong("name")}
      >
        <Input value={wish.name} placeholder="nightly report" onChange={({ detail }) => put({ name: detail.value })} />
      </FormField>
      <FormField label="Role" errorText={wrong("role")}>
        <RadioGroup
          value={wish.role}
          items={[
            { value: "viewer", label: "Viewer", description: "Reads everything but tokens and the audit log." },
            { value: "admin", label: "Administrator", description: "Also changes things." },
          ]}
          onChange={({ detail }) => put({ role: detail.value as Schema<"Role"> })}
        />
      </FormField>
      <FormField
        label="Areas"
        description="Parts of the API that it may ask for. None chosen: all. The console needs a token for all."
        errorText={wrong("areas")}
      >
        <Multiselect
          selectedOptions={wish.areas.map((value) => ({ value }))}
          options={areas.map((value) => ({ value }))}
          placeholder="All"
          filteringType="auto"
          onChange={({ detail }) => put({ areas: detail.selectedOptions.map((one) => one.value ?? "") })}
        />
      </FormField>
      <FormField
        label="Days until it ends"
        constraintText="At most 366."
        errorText={wrong("expires_in_seconds") && "1 to 366 days."}
      >
        <Input
          value={wish.days}
          inputMode="decimal"
          onChange={({ detail }) => put({ days: detail.value })}
        />
      </FormField>
    </SpaceBetween>
  );
}
