import DateInput from "@cloudscape-design/components/date-input";
import FormField from "@cloudscape-design/components/form-field";
import PropertyFilter, { type PropertyFilterProps } from "@cloudscape-design/components/property-filter";
import { useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";

import { STATES } from "../../components/JobStatus";
import { localTime } from "../../format";
import { queueNamesQuery } from "./queries";
import { UNFINISHED, type JobsSearch } from "./search";
import { searchOf, tokensOf } from "./tokens";

const ENUM: PropertyFilterProps.ExtendedOperator<string[]>[] = [
  { operator: "=", tokenType: "enum", format: (value) => (Array.isArray(value) ? value : [value]).map(words).join(", ") },
];

const words = (status: string): string => (status === UNFINISHED ? "Not finished" : status);

const TIME: PropertyFilterProps.ExtendedOperator<string>[] = (["<", ">="] as const).map((operator) => ({
  operator,
  form: DayForm,
  format: (value: string) => localTime(new Date(value)),
  match: "date",
}));

const PROPERTIES: PropertyFilterProps.FilteringProperty[] = [
  { key: "status", propertyLabel: "Status", groupValuesLabel: "Statuses", operators: ENUM },
  { key: "queue", propertyLabel: "Job queue", groupValuesLabel: "Job queues", operators: ENUM },
  { key: "created", propertyLabel: "Created", groupValuesLabel: "Created", defaultOperator: ">=", operators: TIME },
  { key: "finished", propertyLabel: "Finished", groupValuesLabel: "Finished", defaultOperator: ">=", operators: TIME },
];

function DayForm({ value, onChange }: PropertyFilterProps.ExtendedOperatorFormProps<string>) {
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

/** The filter of the list. The server does the work; the address holds what was asked. */
export function Filter({ search, found }: { search: JobsSearch; found: string }) {
  const navigate = useNavigate({ from: "/jobs" });
  const { data: queues = [] } = useQuery(queueNamesQuery);
  const options: PropertyFilterProps.FilteringOption[] = [
    { propertyKey: "status", value: UNFINISHED, label: "Not finished" },
    ...STATES.map((value) => ({ propertyKey: "status", value })),
    ...queues.map((value) => ({ propertyKey: "queue", value })),
  ];
  return (
    <PropertyFilter
      query={tokensOf(search)}
      onChange={({ detail }) => void navigate({ search: searchOf(detail, search) })}
      filteringProperties={PROPERTIES}
      filteringOptions={options}
      hideOperations
      freeTextFiltering={{ operators: [":"], defaultOperator: ":" }}
      filteringPlaceholder="Find jobs by id, name, queue, status or time"
      filteringAriaLabel="Find jobs"
      countText={found}
      expandToViewport
      i18nStrings={{ operatorContainsText: "has", clearFiltersText: "Clear" }}
    />
  );
}
