/** Who are you? By password with its challenges, by the pool's hosted page, or by API token; then on to what was wanted. */
import Alert from "@cloudscape-design/components/alert";
import Box from "@cloudscape-design/components/box";
import Container from "@cloudscape-design/components/container";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useRouter, useSearch } from "@tanstack/react-router";
import { useEffect, useState } from "react";

import { api, wanted } from "../../api/client";
import { Failure } from "../../components/Failure";
import { PageWaiting } from "../../components/PageWaiting";
import { useTitle } from "../../hooks";
import { isServersOwn, safeNext, takeProblem } from "./next";
import { Ways } from "./Ways";

const methodsQuery = {
  queryKey: ["sign-in", "methods"],
  queryFn: () => wanted(api.GET("/api/v1/auth")),
  staleTime: 0,
} as const;

export default function SignInPage() {
  useTitle("Sign in");
  const search = useSearch({ from: "/sign-in" });
  const next = safeNext(search.next);
  const router = useRouter();
  const client = useQueryClient();
  const [told] = useState(takeProblem);
  const methods = useQuery(methodsQuery);
  const goOn = async () => {
    client.clear();
    if (isServersOwn(next)) location.assign(next);
    else router.history.replace(next);
  };
  const isIn = Boolean(methods.data?.me); // signed in already, or nobody has to sign in here
  useEffect(() => {
    if (isIn) void goOn();
  }, [isIn]); // eslint-disable-line -- once

  if (methods.error)
    return (
      <Frame>
        <Failure problem={methods.error} onRetry={() => void methods.refetch()} />
      </Frame>
    );
  if (!methods.data || isIn) return <PageWaiting />;
  return (
    <Frame>
      <SpaceBetween size="m">
        {told ? (
          <Alert type="error" header="The sign-in did not work">
            {told}
          </Alert>
        ) : (
          search.ended && <Alert type="info">Your session has ended. Sign in again to go on where you were.</Alert>
        )}
        <Ways methods={methods.data} next={next} onIn={goOn} />
      </SpaceBetween>
    </Frame>
  );
}

function Frame({ children }: { children: React.ReactNode }) {
  return (
    <main className="sign-in">
      <Box variant="h1" fontSize="heading-xl" textAlign="center" padding={{ bottom: "m" }}>
        Sign in to Perdure
      </Box>
      <Container>{children}</Container>
    </main>
  );
}
