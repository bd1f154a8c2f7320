/** The API: typed by its OpenAPI document. Every call either gives what was asked for, or throws an ApiError. */
import createClient from "openapi-fetch";

import { ApiError, unreachable } from "./errors";
import { notePosition } from "./positions";
import { noteAnswer, noteSilence } from "./reach";
import type { components, paths } from "./schema";

/** A model of the API by its name, such as `Schema<"JobSummary">`. */
export type Schema<Name extends keyof components["schemas"]> = components["schemas"][Name];

const OWN_HEADER = { "X-Perdure-Request": "console" };

async function reach(request: Request): Promise<Response> {
  try {
    const answer = await fetch(request);
    noteAnswer();
    notePosition(answer);
    return answer;
  } catch (problem) {
    if (problem instanceof DOMException && problem.name === "AbortError") throw problem;
    noteSilence();
    throw unreachable();
  }
}

export const api = createClient<paths>({ fetch: reach, headers: OWN_HEADER });

type Answer<T> = { data?: T; error?: unknown; response: Response };

/** The body of a good answer. Throws ApiError with what the server said of a bad one. */
export async function wanted<T>(answer: Promise<Answer<T>>): Promise<T> {
  return (await answered(answer)).data;
}

/** The same with the response, for those who need a header, such as an ETag. */
export async function answered<T>(answer: Promise<Answer<T>>): Promise<{ data: T; response: Response }> {
  const { data, error, response } = await answer;
  if (!response.ok) throw ApiError.of(response.status, error);
  return { data: data as T, response };
}
