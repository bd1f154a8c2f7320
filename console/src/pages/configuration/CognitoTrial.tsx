/** Try a sign-in with the pool that the form names, before anybody has to. */
import Alert from "@cloudscape-design/components/alert";
import Button from "@cloudscape-design/components/button";
import Container from "@cloudscape-design/components/container";
import Header from "@cloudscape-design/components/header";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { useMutation } from "@tanstack/react-query";
import { useState } from "react";

import type { Schema } from "../../api/client";
import { Failure } from "../../components/Failure";
import { ChallengeForm } from "../../components/sign-in/ChallengeForm";
import { PasswordForm } from "../../components/sign-in/PasswordForm";
import type { Fields } from "./draft";
import { tryOut } from "./queries";

type Trial = Schema<"SignInTrial">;
type Given = Omit<Trial, "cognito">;

export function CognitoTrial({ wanted, onProven }: { wanted: Fields; onProven: () => void }) {
  const [open, setOpen] = useState(false);
  const trial = useMutation({
    mutationFn: (asked: Trial) => tryOut(asked),
    onSuccess: (result) => result.proven && onProven(),
  });
  const attempt = (given: Given) => trial.mutate({ cognito: wanted, ...given });
  // What was tried with other values than those that stand above now proves nothing of these.
  const holds = JSON.stringify(trial.variables?.cognito) === JSON.stringify(wanted);
  const result = holds ? trial.data : undefined;
  const challenge = result?.challenge;

  return (
    <Container
      header={
        <Header
          variant="h2"
          description="With the values above, saved or not. Nobody is signed in by it. An administrator who gets in shows that turning it on locks nobody out."
          actions={!open && <Button onClick={() => setOpen(true)}>Try a sign-in</Button>}
        >
          Trial
        </Header>
      }
    >
      {open && (
        <SpaceBetween size="m">
          {holds && trial.error && <Failure problem={trial.error} />}
          {result && <Outcome result={result} />}
          {challenge ? (
            <ChallengeForm
              challenge={challenge.challenge}
              busy={trial.isPending}
              submitText="Answer"
              onAnswer={(answer) =>
                attempt({
                  username: challenge.username,
                  secret: answer,
                  challenge: challenge.challenge as Given["challenge"],
                  challenge_session: challenge.challenge_session,
                })
              }
              onAgain={() => trial.reset()}
            />
          ) : (
            <PasswordForm
              busy={trial.isPending}
              submitText="Try"
              onSubmit={(username, password) => attempt({ username, secret: password })}
            />
          )}
        </SpaceBetween>
      )}
    </Container>
  );
}

function Outcome({ result }: { result: Schema<"SignInTried"> }) {
  if (result.challenge) return null;
  if (result.problem)
    return (
      <Alert type="error" header="The sign-in did not work">
        {result.problem}
      </Alert>
    );
  const groups = result.groups?.length ? `Groups: ${result.groups.join(", ")}.` : "This user is in no group.";
  if (result.proven)
    return (
      <Alert type="success" header={`${result.username} gets in as administrator`}>
        {groups} You may turn the sign-in on within 15 minutes.
      </Alert>
    );
  return (
    <Alert type="warning" header={result.role ? `${result.username} gets in as viewer` : `${result.username} would not get in`}>
      {groups} To turn the sign-in on, try it as somebody of a group of administrators.
    </Alert>
  );
}
