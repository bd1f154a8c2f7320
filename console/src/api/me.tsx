/** Who is signed in. Pages ask it what to show: a viewer sees no button that would be refused. */
import { useQuery } from "@tanstack/react-query";
import { createContext, useContext, type ReactNode } from "react";

import { api, wanted, type Schema } from "./client";
import { ApiError, isSignedOut } from "./errors";

export type Me = Schema<"Me"> & { isAdmin: boolean };

const Context = createContext<Me | null>(null);

export const meQuery = {
  queryKey: ["me"],
  // Not /auth/me: that answers a stranger with 401, which browsers note as an error of the page.
  queryFn: async (): Promise<Me> => {
    const { me } = await wanted(api.GET("/api/v1/auth"));
    if (!me) throw new ApiError(401, "not_signed_in", "Nobody is signed in.");
    return { ...me, isAdmin: me.role === "admin" };
  },
  staleTime: 5 * 60_000,
} as const;

export function MeProvider({ children, waiting }: { children: ReactNode; waiting: ReactNode }) {
  const { data, error } = useQuery(meQuery);
  if (data === undefined && (error === null || isSignedOut(error))) return waiting; // the sign-in page is on its way
  return <Context value={data ?? null}>{children}</Context>;
}

/** Null while the server is out of reach, or nobody is signed in. */
export const useMe = (): Me | null => useContext(Context);
export const useIsAdmin = (): boolean => useMe()?.isAdmin ?? false;
