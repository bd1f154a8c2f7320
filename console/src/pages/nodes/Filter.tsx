import PropertyFilter, { type PropertyFilterProps } from "@cloudscape-design/components/property-filter";

import type { Schema } from "../../api/client";
import { namesOfTokens, optionsOf, tokensOfNames } from "../../components/filter/names";
import { NAMES, type NodesSearch } from "./search";

type Props = {
  /** What was asked for, whether it is shown already or not. */
  search: NodesSearch;
  /** Those that are shown: their zones and types are suggested. */
  nodes: readonly Schema<"NodeWithWork">[];
  onChange: (change: Pick<NodesSearch, "q" | "zone" | "instance_type">) => void;
};

const ENUM: PropertyFilterProps.ExtendedOperator<string[]>[] = [{ operator: "=", tokenType: "enum" }];
const PROPERTIES: PropertyFilterProps.FilteringProperty[] = [
  { key: "zone", propertyLabel: "Zone", groupValuesLabel: "Zones", operators: ENUM },
  { key: "instance_type", propertyLabel: "Instance type", groupValuesLabel: "Instance types", operators: ENUM },
];

/** The filter of the list. The server does the work; the address holds what was asked. */
export function Filter({ search, nodes, onChange }: Props) {
  const tokens = [...tokensOfNames(search, NAMES), ...(search.q ? [{ operator: ":", value: search.q }] : [])];
  return (
    <PropertyFilter
      query={{ tokens, operation: "and" }}
      onChange={({ detail }) => {
        const text = detail.tokens.findLast((one) => one.propertyKey === undefined);
        const none = { zone: undefined, instance_type: undefined };
        onChange({ ...none, ...namesOfTokens(detail.tokens, NAMES), q: text ? String(text.value) : undefined });
      }}
      filteringProperties={PROPERTIES}
      filteringOptions={NAMES.flatMap((name) => optionsOf(name, [...nodes.map((one) => one[name]), ...(search[name] ?? [])]))}
      hideOperations
      freeTextFiltering={{ operators: [":"], defaultOperator: ":" }}
      filteringPlaceholder="Find by id, host name, type, zone"
      filteringAriaLabel="Find nodes"
      expandToViewport
      i18nStrings={{ operatorContainsText: "has", clearFiltersText: "Clear" }}
    />
  );
}
