/** What the address of the configuration says: which tab. */
import type { Section } from "./sections";

export type Tab = Section | "history";
// Not taken of ./sections: its texts are loaded with the page, this with the console.
const TABS: Tab[] = ["checkpoint", "job_volume", "store", "log", "server", "cognito", "history"];

export type ConfigurationSearch = { tab?: Tab };

export const validateConfigurationSearch = (search: Record<string, unknown>): ConfigurationSearch => ({
  tab: TABS.find((tab) => tab === search.tab),
});
