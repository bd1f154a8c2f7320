import PropertyFilter, { type PropertyFilterProps } from "@cloudscape-design/components/property-filter";
import { useQuery } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { lazy, Suspense } from "react";

import { optionsOf } from "../../components/filter/names";
import { STATES } from "../../components/JobStatus";
import { localTime } from "../../format";
import type { JobRow } from "./columns";
import { queueNamesQuery } from "./queries";
import { UNFINISHED, type JobsSearch } from "./search";
import { NOT_PROTECTED, PROTECTED, searchOf, tokensOf } from "./tokens";

const ENUM: PropertyFilterProps.ExtendedOperator<string[]>[] = [
  { operator: "=", tokenType: "enum", format: (value) => (Array.isArray(value) ? value : [value]).map(words).join(", ") },
];

const words = (status: string): string => (status === UNFINISHED ? "Not finished" : status);

/** Calendars weigh much: they are loaded when somebody filters by time. */
const DayForm = lazy(() => import("./DayForm"));

const TIME: PropertyFilterProps.ExtendedOperator<string>[] = (["<", ">="] as const).map((operator) => ({
  operator,
  form: (props) => (
    <Suspense>
      <DayForm {...props} />
    </Suspense>
  ),
  format: (value: string) => localTime(new Date(value)),
  match: "date",
}));

const PROPERTIES: PropertyFilterProps.FilteringProperty[] = [
  { key: "status", propertyLabel: "Status", groupValuesLabel: "Statuses", operators: ENUM },
  { key: "queue", propertyLabel: "Job queue", groupValuesLabel: "Job queues", operators: ENUM },
  { key: "zone", propertyLabel: "Zone", groupValuesLabel: "Zones", operators: ENUM },
  { key: "node", propertyLabel: "Node", groupValuesLabel: "Nodes", operators: ENUM },
  { key: PROTECTED, propertyLabel: "Protected", groupValuesLabel: "Protected", operators: ["="] },
  { key: "created", propertyLabel: "Created", groupValuesLabel: "Created", defaultOperator: ">=", operators: TIME },
  { key: "finished", propertyLabel: "Finished", groupValuesLabel: "Finished", defaultOperator: ">=", operators: TIME },
];

type Props = {
  /** What was asked for, whether it is shown already or not. */
  search: JobsSearch;
  /** On the page that is shown: their nodes and zones are suggested. */
  jobs: readonly JobRow[];
  found: string;
};

/** The filter of the list. The server does the work; the address holds what was asked. */
export function Filter({ search, jobs, found }: Props) {
  const navigate = useNavigate({ from: "/jobs" });
  const { data: queues = [] } = useQuery(queueNamesQuery);
  const options: PropertyFilterProps.FilteringOption[] = [
    { propertyKey: "status", value: UNFINISHED, label: "Not finished" },
    ...STATES.map((value) => ({ propertyKey: "status", value })),
    { propertyKey: PROTECTED, value: NOT_PROTECTED },
    ...optionsOf("queue", [...queues, ...(search.queue ?? [])]),
    ...optionsOf("zone", [...jobs.map((one) => one.zone), ...(search.zone ?? [])]),
    ...optionsOf("node", [...jobs.map((one) => one.instance_id), ...(search.node ?? [])]),
  ];
  return (
    <PropertyFilter
      query={tokensOf(search)}
      onChange={({ detail }) => void navigate({ search: (now) => searchOf(detail, now) })}
      filteringProperties={PROPERTIES}
      filteringOptions={options}
      hideOperations
      freeTextFiltering={{ operators: [":"], defaultOperator: ":" }}
      filteringPlaceholder="Find jobs by id, name, status, queue, zone, node, protection or time"
      filteringAriaLabel="Find jobs"
      countText={found}
      expandToViewport
      i18nStrings={{ operatorContainsText: "has", clearFiltersText: "Clear" }}
    />
  );
}
