import Alert from "@cloudscape-design/components/alert";
import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import ExpandableSection from "@cloudscape-design/components/expandable-section";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";

import { api, wanted, type Schema } from "../../api/client";
import { isSignedOut } from "../../api/errors";
import { ChallengeForm } from "../../components/sign-in/ChallengeForm";
import { PasswordForm } from "../../components/sign-in/PasswordForm";
import { TokenForm } from "../../components/sign-in/TokenForm";

type Props = { methods: Schema<"SignInMethods">; next: string; onIn: () => Promise<void> };
type Challenge = Schema<"ChallengeView">;

/** The ways that are set up on this server. */
export function Ways({ methods, next, onIn }: Props) {
  const [challenge, setChallenge] = useState<Challenge | null>(null);
  const [problem, setProblem] = useState("");
  const asking = useMutation({
    mutationFn: (ask: () => Promise<Schema<"SignedIn">>) => ask(),
    meta: { expected: true },
    onMutate: () => setProblem(""),
    onSuccess: async (answer) => {
      if (answer.challenge) setChallenge(answer.challenge);
      else await onIn();
    },
    onError: (failure) => {
      setProblem(failure.message);
      if (isSignedOut(failure)) setChallenge(null); // its time is over: from the beginning
    },
  });
  

  return (
    <SpaceBetween size="m">
      <div role="alert">{problem && <Alert type="error">{problem}</Alert>}</div>
      {challenge ? (
        <ChallengeForm
          key={challenge.challenge_session}
          challenge={challenge.challenge}
          busy={asking.isPending}
          submitText="Sign in"
          onAnswer={(answer) => asking.mutate(() => answered(challenge, answer))}
          onAgain={() => {
            setChallenge(null);
            setProblem("");
          }}
        />
      ) : methods.enabled ? (
        <SpaceBetween size="l">
          <PasswordForm
            autoFocus
            busy={asking.isPending}
            submitText="Sign in"
            onSubmit={(username, password) => asking.mutate(() => byPassword(username, password))}
          />
          {methods.hosted && (
            <SpaceBetween size="m">
              <Box textAlign="center" color="text-body-secondary">
                or
              </Box>
              <Button fullWidth href={`/api/v1/auth/hosted?next=${encodeURIComponent(next)}`}>
                Sign in with Cognito
              </Button>
            </SpaceBetween>
          )}
          <ExpandableSection headerText="Sign in with an API token">
            <TokenForm busy={asking.isPending} onSubmit={(token) => asking.mutate(() => byToken(token))} />
          </ExpandableSection>
        </SpaceBetween>
      ) : (
        <SpaceBetween size="m">
          <Box>No user pool is set up on this server, so people sign in with an API token.</Box>
          <TokenForm autoFocus busy={asking.isPending} onSubmit={(token) => asking.mutate(() => byToken(token))} />
        </SpaceBetween>
      )}
    </SpaceBetween>
  );
}

const byPassword = (username: string, password: string) =>
  wanted(api.POST("/api/v1/auth/sign-in", { body: { username, password, keep: "cookie" } }));

const byToken = (token: string) => wanted(api.POST("/api/v1/auth/token", { body: { token } }));

const answered = ({ challenge, challenge_session, username }: Challenge, answer: string) =>
  wanted(
    api.POST("/api/v1/auth/challenge", {
      body: {
        challenge: challenge as Schema<"ChallengeAnswer">["challenge"],
        challenge_session,
        username,
        answer,
        keep: "cookie",
      },
    }),
  );
