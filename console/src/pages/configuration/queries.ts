/** What the configuration's page asks for, and what it asks to be done. */
import { infiniteQueryOptions, keepPreviousData, queryOptions } from "@tanstack/react-query";

import { api, wanted, type Schema } from "../../api/client";
import type { Fields } from "./draft";
import type { Section } from "./sections";

export type Configuration = Schema<"Configuration">;
export type Checked = Schema<"ConfigurationChecked">;

/** What the router has just asked for need not be asked for again when the page is drawn. */
const JUST_MS = 3000;

export const configurationQuery = queryOptions({
  queryKey: ["configuration"],
  queryFn: () => wanted(api.GET("/api/v1/configuration")),
  staleTime: JUST_MS,
});

/** Sections of which the API says more than what it would refuse: a certificate, a price. */
export const TOLD_AT_ONCE: readonly (Section | "history" | undefined)[] = ["server", "job_volume"];

/** Would the API take `fields` of that section? Asked while somebody types. The answer names the version it holds for. */
export const checkQuery = (section: Section, fields: Fields) =>
  queryOptions({
    queryKey: ["configuration", "check", section, JSON.stringify(fields)],
    queryFn: () => wanted(api.POST("/api/v1/configuration/check", { body: { [section]: fields } })),
    placeholderData: keepPreviousData,
    staleTime: JUST_MS,
  });

export const historyQuery = infiniteQueryOptions({
  queryKey: ["configuration", "history"],
  queryFn: ({ pageParam }) =>
    wanted(api.GET("/api/v1/configuration/history", { params: { query: { limit: 30, cursor: pageParam } } })),
  initialPageParam: undefined as string | undefined,
  getNextPageParam: (last) => last.next ?? undefined,
});

/** Saves, if `version` still holds: ApiError 412 if it does not. */
export const save = (section: Section, fields: Fields, version: number): Promise<Schema<"ConfigurationChanged">> =>
  wanted(
    api.PATCH(`/api/v1/configuration/${section}` as "/api/v1/configuration/checkpoint", {
      params: { header: { "if-match": `"${version}"` } },
      body: fields,
    }),
  );

export const tryOut = (body: Schema<"SignInTrial">): Promise<Schema<"SignInTried">> =>
  wanted(api.POST("/api/v1/configuration/cognito/try", { body }));
