/** What the page of a node asks for. */
import { queryOptions } from "@tanstack/react-query";

import { api, wanted } from "../../api/client";

export const nodeQuery = (instanceId: string) =>
  queryOptions({
    queryKey: ["node", instanceId],
    queryFn: () => wanted(api.GET("/api/v1/nodes/{instance_id}", { params: { path: { instance_id: instanceId } } })),
  });
