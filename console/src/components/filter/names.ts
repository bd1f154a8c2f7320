/** Names that lists are filtered by, such as queues and zones: as addresses, the API and the property filter hold them. */
import type { PropertyFilterProps } from "@cloudscape-design/components/property-filter";

type Token = PropertyFilterProps.Token;
export type Names<Property extends string> = { [name in Property]?: string[] };

/** As the API takes names. */
const NAME = /^[A-Za-z0-9_:./-]{1,256}$/;
const MOST = 20;

/** The texts of an address's value, which may be one or several. */
export const texts = (value: unknown): string[] =>
  (Array.isArray(value) ? value : [value]).filter((one): one is string => typeof one === "string" && one !== "");

/** The names in an address. Whatever the API would refuse is left out. */
export function namesIn<P extends string>(search: Record<string, unknown>, properties: readonly P[]): Names<P> {
  const found: Names<P> = {};
  for (const property of properties) {
    const names = [...new Set(texts(search[property]))].filter((one) => NAME.test(one)).slice(0, MOST);
    if (names.length > 0) found[property] = names as Names<P>[P];
  }
  return found;
}

/** A token for each property that is asked for. */
export const tokensOfNames = <P extends string>(search: Names<P>, properties: readonly P[]): Token[] =>
  properties.flatMap((property) =>
    search[property] ? [{ propertyKey: property, operator: "=", value: search[property] }] : [],
  );

/** The names of these tokens; several tokens of one property are put together. */
export function namesOfTokens<P extends string>(tokens: readonly Token[], properties: readonly P[]): Names<P> {
  const found = new Map<string, unknown[]>();
  for (const { propertyKey = "", value } of tokens) found.set(propertyKey, [...(found.get(propertyKey) ?? []), value].flat());
  return namesIn(Object.fromEntries(found), properties);
}

/** What can be chosen: the names that are shown, and those that are asked for. */
export const optionsOf = (propertyKey: string, names: readonly (string | null | undefined)[]) =>
  [...new Set(names.filter((one) => one))].sort().map((value) => ({ propertyKey, value: value! }));
