/**
 * `virtual:limits`: defaults and limits of each setting, and the areas that a token may be bound to, taken of the API's
 * document when the console is built.
 *
 * The document itself is too large to ship, and a copy by hand would go its own way.
 */
import { readFileSync } from "node:fs";

import type { Plugin } from "vite";

const NAME = "virtual:limits";

type Property = { default?: unknown; minimum?: number; exclusiveMinimum?: number; maximum?: number; enum?: string[] };
type Schemas = Record<string, { properties: Record<string, Property & { $ref?: string }> }>;

/** The sections of the configuration, each with the model of its settings: those parts of it that are models. */
function sections(schemas: Schemas): [section: string, model: string][] {
  const parts = Object.entries(schemas.Configuration!.properties);
  return parts.flatMap(([section, { $ref }]) => ($ref ? [[section, $ref.split("/").at(-1)!] as [string, string]] : []));
}

function limits(document: string): string {
  const { components, paths } = JSON.parse(readFileSync(document, "utf8"));
  const schemas: Schemas = components.schemas;
  const areas = Object.keys(paths).map((path) => /^\/api\/v1\/([a-z-]+)/i.exec(path)?.[1] ?? "");
  const found = sections(schemas).map(([section, model]) => [
    section,
    Object.fromEntries(
      Object.entries(schemas[model]!.properties).map(([field, of]) => [
        field,
        { default: of.default ?? null, minimum: of.minimum ?? of.exclusiveMinimum, maximum: of.maximum, choices: of.enum },
      ]),
    ),
  ]);
  const known = [...new Set(areas)].filter((area) => area && area !== "auth" && area !== "health").sort();
  return `export const areas = ${JSON.stringify(known)}; export default ${JSON.stringify(Object.fromEntries(found))}`;
}

export function limitsOf(document: string): Plugin {
  return {
    name: "limits",
    resolveId: (id) => (id === NAME ? `\0${NAME}` : undefined),
    load: (id) => (id === `\0${NAME}` ? limits(document) : undefined),
  };
}
