/** API tokens: for scripts, and for the first sign-in. For administrators. */
import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import Header from "@cloudscape-design/components/header";
import SpaceBetween from "@cloudscape-design/components/space-between";
import Table from "@cloudscape-design/components/table";
import { useInfiniteQuery } from "@tanstack/react-query";
import { useState } from "react";

import { AdminsOnly } from "../../components/AdminsOnly";
import { Failure } from "../../components/Failure";
import { ShowMore } from "../../components/ShowMore";
import { useNow, useTitle } from "../../hooks";
import { columns } from "./columns";
import { MakeToken } from "./MakeToken";
import { tokensQuery, type Token } from "./queries";
import { RevokeToken } from "./RevokeToken";

const LOOK_MS = 60_000;

export default function TokensPage() {
  useTitle("API tokens");
  return (
    <AdminsOnly title="API tokens">
      <Tokens />
    </AdminsOnly>
  );
}

function Tokens() {
  const { data, error, refetch, isPending, hasNextPage, isFetchingNextPage, fetchNextPage } =
    useInfiniteQuery(tokensQuery);
  const [making, setMaking] = useState(false);
  const [revoking, setRevoking] = useState<Token | null>(null);
  const now = useNow(LOOK_MS);
  const tokens = error ? [] : (data?.pages.flatMap((page) => page.items) ?? []);
  return (
    <SpaceBetween size="m">
      {error && <Failure problem={error} onRetry={() => void refetch()} />}
      <Table
        variant="full-page"
        stickyHeader
        items={tokens}
        trackBy="number"
        loading={isPending}
        loadingText="Reading the tokens"
        columnDefinitions={columns(now, setRevoking)}
        ariaLabels={{ tableLabel: "API tokens" }}
        header={
          <Header
            variant="awsui-h1-sticky"
            counter={data && `(${tokens.length}${hasNextPage ? "+" : ""})`}
            description="For scripts, and for signing in where there is no user pool. A token is shown once, when it is made."
            actions={
              <Button variant="primary" onClick={() => setMaking(true)}>
                Make a token
              </Button>
            }
          >
            API tokens
          </Header>
        }
        empty={
          <Box textAlign="center" padding="l" color="inherit">
            There is no token yet.
          </Box>
        }
        footer={hasNextPage && <ShowMore loading={isFetchingNextPage} onMore={() => void fetchNextPage()} />}
      />
      {making && <MakeToken onClose={() => setMaking(false)} />}
      {revoking && <RevokeToken token={revoking} onClose={() => setRevoking(null)} />}
    </SpaceBetween>
  );
}
