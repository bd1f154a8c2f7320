/** What a call can fail with, as a person is told of it. */

export type Detail = { field: string; message: string };

export class ApiError extends Error {
  constructor(
    /** HTTP status; 0: no answer came. */
    readonly status: number,
    /** Short and stable, as the server names it. */
    readonly code: string,
    message: string,
    readonly details: readonly Detail[] = [],
  ) {
    super(message);
    this.name = "ApiError";
  }

  /** Of an answer that is none of success. A body that is not the API's (a proxy's page) is not repeated. */
  static of(status: number, body: unknown): ApiError {
    const error = (body as { error?: { code?: string; message?: string; details?: Detail[] } } | null)?.error;
    if (typeof error?.message === "string")
      return new ApiError(status, error.code ?? "", error.message, error.details ?? []);
    return new ApiError(status, "unexpected", `The server answered ${status} without a reason; try again in a moment.`);
  }
}

/** Nobody answered: the server restarts, or there is no way to it. */
export function unreachable(): ApiError {
  return new ApiError(0, "unreachable", "The server does not answer. It may be restarting, or your network is away.");
}

export const isSignedOut = (problem: unknown): boolean => problem instanceof ApiError && problem.status === 401;
export const isUnreachable = (problem: unknown): boolean => problem instanceof ApiError && problem.status === 0;
export const isMissing = (problem: unknown): boolean => problem instanceof ApiError && problem.status === 404;
/** Somebody else changed it since it was read. */
export const isOutOfDate = (problem: unknown): boolean => problem instanceof ApiError && problem.status === 412;

/** What a refusal is called above its message. */
export function titleOf(problem: unknown): string {
  if (!(problem instanceof ApiError)) return "The console made a mistake";
  if (problem.status === 0) return "No answer from the server";
  if (problem.status === 403) return "You may not do this";
  if (problem.status === 404) return "Not found";
  if (problem.status >= 500) return "The server cannot do this now";
  return "This did not work";
}
