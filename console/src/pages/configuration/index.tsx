/** The configuration: a form per section, and who changed what. */
import ContentLayout from "@cloudscape-design/components/content-layout";
import Header from "@cloudscape-design/components/header";
import SpaceBetween from "@cloudscape-design/components/space-between";
import StatusIndicator from "@cloudscape-design/components/status-indicator";
import Tabs from "@cloudscape-design/components/tabs";
import Box from "@cloudscape-design/components/box";
import { useQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";

import { useIsAdmin } from "../../api/me";
import { Failure } from "../../components/Failure";
import { PageWaiting } from "../../components/PageWaiting";
import { Time } from "../../components/Time";
import { useTitle } from "../../hooks";
import { useDrafts } from "./drafts";
import { History } from "./History";
import { configurationQuery } from "./queries";
import type { Tab } from "./search";
import { SectionForm } from "./SectionForm";
import { FORMS, SECTIONS } from "./sections";
import { Settings } from "./Settings";

export default function ConfigurationPage() {
  useTitle("Configuration");
  const { tab = "checkpoint" } = useSearch({ from: "/shell/configuration" });
  const navigate = useNavigate();
  const isAdmin = useIsAdmin();
  const { data: now, error, refetch } = useQuery(configurationQuery);
  const [drafts, changeDraft] = useDrafts();

  if (error && !now) return <Failure problem={error} onRetry={() => void refetch()} />;
  if (!now) return <PageWaiting />;
  return (
    <ContentLayout
      header={
        <Header
          variant="h1"
          description={
            now.changed_at ? (
              <>
                Version {now.number}, saved by {now.changed_by} on <Time at={now.changed_at} />
              </>
            ) : (
              "Nothing was ever changed: the defaults hold."
            )
          }
        >
          Configuration
        </Header>
      }
    >
      <Tabs
        activeTabId={tab}
        ariaLabel="Sections of the configuration"
        onChange={({ detail }) => void navigate({ to: "/configuration", search: { tab: detail.activeTabId as Tab } })}
        tabs={[
          ...SECTIONS.map((section) => ({
            id: section,
            label: FORMS[section].title,
            action: drafts[section] && (
              <StatusIndicator type="info" iconAriaLabel="Not saved">
                <span className="narrow-hidden">not saved</span>
              </StatusIndicator>
            ),
            content: (
              <SpaceBetween size="l">
                <Box color="text-body-secondary">{FORMS[section].about}</Box>
                {isAdmin ? (
                  <SectionForm
                    section={section}
                    now={now}
                    draft={drafts[section]}
                    onDraft={(change) => changeDraft(section, change)}
                  />
                ) : (
                  <Settings section={section} now={now} />
                )}
              </SpaceBetween>
            ),
          })),
          { id: "history", label: "History", content: <History /> },
        ]}
      />
    </ContentLayout>
  );
}
