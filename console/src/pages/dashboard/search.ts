/** What the address of the dashboard says. */
export type DashboardSearch = Record<string, unknown>;

export const validateDashboardSearch = (search: Record<string, unknown>): DashboardSearch => search;
