/** The property filter's tokens and the address say the same: each is made of the other. */
import type { PropertyFilterProps } from "@cloudscape-design/components/property-filter";

import { namesOfTokens, tokensOfNames } from "../../components/filter/names";
import { NAMES, TIMES, validateJobsSearch, type JobsSearch, type Status } from "./search";

export type Query = PropertyFilterProps.Query;
type Token = PropertyFilterProps.Token;

/** The only question about protection that the list answers: which jobs have none? */
export const PROTECTED = "protected";
export const NOT_PROTECTED = "No";

const OPERATORS: Record<(typeof TIMES)[number], [key: string, operator: PropertyFilterProps.ComparisonOperator]> = {
  created_after: ["created", ">="],
  created_before: ["created", "<"],
  finished_after: ["finished", ">="],
  finished_before: ["finished", "<"],
};

export function tokensOf(search: JobsSearch): Query {
  const tokens: Token[] = [];
  if (search.status) tokens.push({ propertyKey: "status", operator: "=", value: search.status });
  tokens.push(...tokensOfNames(search, NAMES));
  if (search.unprotected) tokens.push({ propertyKey: PROTECTED, operator: "=", value: NOT_PROTECTED });
  for (const time of TIMES) {
    const value = search[time];
    if (value) tokens.push({ propertyKey: OPERATORS[time][0], operator: OPERATORS[time][1], value });
  }
  if (search.q) tokens.push({ operator: ":", value: search.q });
  return { tokens, operation: "and" };
}

/** Each property once: of two times or texts the later one wins; statuses and names are put together. */
export function searchOf(query: Query, before: JobsSearch): JobsSearch {
  const found: JobsSearch = { sort: before.sort, ...namesOfTokens(query.tokens, NAMES) };
  for (const { propertyKey, operator, value } of query.tokens) {
    const values = (Array.isArray(value) ? value : [value]) as string[];
    if (propertyKey === "status") found.status = [...new Set([...(found.status ?? []), ...(values as Status[])])];
    else if (propertyKey === PROTECTED) found.unprotected = String(value) === NOT_PROTECTED ? true : undefined;
    else if (propertyKey === undefined) found.q = values[0];
    else {
      const time = TIMES.find((one) => OPERATORS[one][0] === propertyKey && OPERATORS[one][1] === operator);
      if (time) found[time] = values[0];
    }
  }
  return validateJobsSearch(found as Record<string, unknown>);
}
