/** One cache for all pages. What the stream tells of is not polled: lists stay fresh until something is said. */
import { MutationCache, QueryCache, QueryClient } from "@tanstack/react-query";

import { ApiError, isSignedOut } from "./errors";
import { FRESH_MS } from "./positions";

/**
 * `signIn` is called when the server says that nobody is signed in (any more), but for calls with `meta.expected`: those
 * of the sign-in page itself.
 */
export function makeQueryClient(signIn: () => void): QueryClient {
  const onError = (problem: unknown, expected: unknown) => {
    if (isSignedOut(problem) && expected !== true) signIn();
  };
  return new QueryClient({
    queryCache: new QueryCache({ onError: (problem, query) => onError(problem, query.meta?.expected) }),
    mutationCache: new MutationCache({
      onError: (problem, _variables, _context, mutation) => onError(problem, mutation.meta?.expected),
    }),
    defaultOptions: {
      queries: {
        staleTime: FRESH_MS,
        gcTime: 10 * 60_000,
        refetchOnWindowFocus: true,
        // A refusal stays one however often it is asked for; a server that restarts comes back within seconds.
        retry: (failures, problem) =>
          failures < 4 && problem instanceof ApiError && (problem.status === 0 || problem.status === 503),
        retryDelay: (failures) => Math.min(500 * 2 ** failures, 4000),
        networkMode: "always",
      },
      mutations: { networkMode: "always" },
    },
  });
}
