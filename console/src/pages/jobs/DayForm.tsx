import DateInput from "@cloudscape-design/components/date-input";
import FormField from "@cloudscape-design/components/form-field";
import type { PropertyFilterProps } from "@cloudscape-design/components/property-filter";

type Props = Pick<PropertyFilterProps.ExtendedOperatorFormProps<string>, "value" | "onChange">;

/** Asks for a day; the filter holds the instant at which it begins here. */
export default function DayForm({ value, onChange }: Props) {
  const day = value && !Number.isNaN(Date.parse(value)) ? localDay(new Date(value)) : "";
  return (
    <FormField label="Day" description="It begins at midnight, in your time.">
      <DateInput
        value={day}
        placeholder="YYYY/MM/DD"
        onChange={({ detail }) => {
          const midnight = new Date(`${detail.value}T00:00:00`);
          onChange(Number.isNaN(midnight.getTime()) ? null : midnight.toISOString());
        }}
      />
    </FormField>
  );
}

const two = (value: number): string => String(value).padStart(2, "0");
const localDay = (at: Date): string => `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
