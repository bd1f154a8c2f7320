/** Who is signed in. Pages ask it what to show: a viewer sees no button that would be refused. */
import { useQuery } from "@tanstack/react-query";
import { createContext, useContext, type ReactNode } from "react";

import { api, wanted, type Schema } from "./client";

export type Me = Schema<"Me"> & { isAdmin: boolean };

const Context = createContext<Me | null>(null);

export const meQuery = {
  queryKey: ["me"],
  queryFn: async (): Promise<Me> => {
    const me = await wanted(api.GET("/api/v1/auth/me"));
    return { ...me, isAdmin: me.role === "admin" };
  },
  staleTime: 5 * 60_000,
} as const;

export function MeProvider({ children, waiting }: { children: ReactNode; waiting: ReactNode }) {
  const { data, error } = useQuery(meQuery);
  if (data === undefined && error === null) return waiting;
  return <Context value={data ?? null}>{children}</Context>;
}

/** Null while the server is out of reach, or nobody is signed in. */
export const useMe = (): Me | null => useContext(Context);
export const useIsAdmin = (): boolean => useMe()?.isAdmin ?? false;
