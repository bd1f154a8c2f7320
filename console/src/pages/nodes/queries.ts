import { infiniteQueryOptions, keepPreviousData } from "@tanstack/react-query";

import { api, wanted } from "../../api/client";
import { asked, type NodesSearch } from "./search";

const PER_PAGE = 50;

export const nodesQuery = (search: NodesSearch) =>
  infiniteQueryOptions({
    queryKey: ["nodes", asked(search)],
    queryFn: ({ pageParam }) =>
      wanted(api.GET("/api/v1/nodes", { params: { query: { ...asked(search), limit: PER_PAGE, cursor: pageParam } } })),
    initialPageParam: undefined as string | undefined,
    getNextPageParam: (last) => last.next ?? undefined,
    placeholderData: keepPreviousData,
  });
