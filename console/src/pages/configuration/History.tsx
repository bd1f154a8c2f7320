/** Who changed what, when. */
import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import Container from "@cloudscape-design/components/container";
import Header from "@cloudscape-design/components/header";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { useInfiniteQuery } from "@tanstack/react-query";

import { Failure } from "../../components/Failure";
import { PageWaiting } from "../../components/PageWaiting";
import { Time } from "../../components/Time";
import { Changes } from "./Changes";
import { historyQuery } from "./queries";

export function History() {
  const { data, error, refetch, hasNextPage, isFetchingNextPage, fetchNextPage } = useInfiniteQuery(historyQuery);
  if (error) return <Failure problem={error} onRetry={() => void refetch()} />;
  if (!data) return <PageWaiting />;
  const entries = data.pages.flatMap((page) => page.items);
  if (entries.length === 0) return <Box padding="l">Nothing was ever changed: the defaults hold.</Box>;
  return (
    <SpaceBetween size="m">
      {entries.map((entry) => (
        <Container
          key={entry.number}
          header={
            <Header variant="h2" description={<Time at={entry.at} />}>
              {entry.by || "somebody"} · version {entry.number}
            </Header>
          }
        >
          {entry.changes.length > 0 ? (
            <Changes changes={entry.changes} label={`Changes of version ${entry.number}`} />
          ) : (
            "Settings without effect here."
          )}
        </Container>
      ))}
      {hasNextPage && (
        <Button loading={isFetchingNextPage} onClick={() => void fetchNextPage()}>
          Show older changes
        </Button>
      )}
    </SpaceBetween>
  );
}
