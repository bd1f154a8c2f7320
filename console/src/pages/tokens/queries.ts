import { infiniteQueryOptions } from "@tanstack/react-query";

import { api, wanted, type Schema } from "../../api/client";

export type Token = Schema<"TokenView">;
const PER_PAGE = 50;

export const tokensQuery = infiniteQueryOptions({
  queryKey: ["tokens"],
  queryFn: ({ pageParam }) =>
    wanted(api.GET("/api/v1/tokens", { params: { query: { limit: PER_PAGE, cursor: pageParam } } })),
  initialPageParam: undefined as string | undefined,
  getNextPageParam: (last) => last.next ?? undefined,
});

export const make = (wish: Schema<"TokenWish">): Promise<Schema<"NewToken">> =>
  wanted(api.POST("/api/v1/tokens", { body: wish }));

export const revoke = (number: number): Promise<Token> =>
  wanted(api.DELETE("/api/v1/tokens/{number}", { params: { path: { number } } }));
