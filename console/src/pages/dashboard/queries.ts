/** What the dashboard asks for. */
import { keepPreviousData, queryOptions } from "@tanstack/react-query";

import { api, wanted } from "../../api/client";
import { bounds, levelOf, type DashboardSearch } from "./search";

const CHARTED = [
  "spot_protections",
  "jobs_succeeded",
  "jobs_failed",
  "total_jobs",
  "total_cost",
  "spot_savings_cost",
  "net_savings",
];

export const reportQuery = (search: DashboardSearch) =>
  queryOptions({
    queryKey: ["dashboard", "report", search],
    queryFn: () => wanted(api.GET("/api/v1/report", { params: { query: bounds(search, Date.now()) } })),
    placeholderData: keepPreviousData,
  });

export const trendsQuery = (search: DashboardSearch) =>
  queryOptions({
    queryKey: ["dashboard", "trends", search],
    queryFn: () => {
      const now = Date.now();
      const span = bounds(search, now);
      const query = { ...span, level: levelOf(span, now), metric: CHARTED };
      return wanted(api.GET("/api/v1/report/trends", { params: { query } }));
    },
    placeholderData: keepPreviousData,
  });

export const queuesQuery = (search: DashboardSearch) =>
  queryOptions({
    queryKey: ["dashboard", "queues", search],
    queryFn: () => wanted(api.GET("/api/v1/queues", { params: { query: bounds(search, Date.now()) } })),
    placeholderData: keepPreviousData,
  });

export const alertsQuery = queryOptions({
  queryKey: ["dashboard", "alerts"],
  queryFn: () => wanted(api.GET("/api/v1/alerts")),
});

export const newestQuery = queryOptions({
  queryKey: ["dashboard", "events"],
  queryFn: () => wanted(api.GET("/api/v1/events", { params: { query: { limit: 8 } } })),
});
