import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import Form from "@cloudscape-design/components/form";
import FormField from "@cloudscape-design/components/form-field";
import Input from "@cloudscape-design/components/input";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { useState } from "react";

const HINTS: Record<string, string> = {
  NEW_PASSWORD_REQUIRED: "This is your first sign-in, or your password was reset. Choose a new one.",
  SMS_MFA: "A code was sent to your phone.",
  EMAIL_OTP: "A code was sent to you by e-mail.",
  SOFTWARE_TOKEN_MFA: "Enter the code that your authenticator app shows.",
};

type Props = {
  challenge: string;
  busy: boolean;
  submitText: string;
  onAnswer: (answer: string) => void;
  onAgain: () => void;
};

/** What the user pool asks after the password: a new password, or a code. */
export function ChallengeForm({ challenge, busy, submitText, onAnswer, onAgain }: Props) {
  const renews = challenge === "NEW_PASSWORD_REQUIRED";
  const [answer, setAnswer] = useState("");
  const [again, setAgain] = useState("");
  const differ = renews && again !== "" && again !== answer;
  const complete = answer !== "" && (!renews || again === answer);
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        if (!busy && complete) onAnswer(renews ? answer : answer.trim());
      }}
    >
      <Form
        actions={
          <SpaceBetween direction="horizontal" size="xs">
            <Button formAction="none" variant="link" onClick={onAgain}>
              Start again
            </Button>
            <Button variant="primary" loading={busy} disabled={!complete}>
              {submitText}
            </Button>
          </SpaceBetween>
        }
      >
        <SpaceBetween size="m">
          <Box>{HINTS[challenge] ?? "Enter the code."}</Box>
          <FormField label={renews ? "New password" : "Code"}>
            <Input
              autoFocus
              value={answer}
              type={renews ? "password" : "text"}
              inputMode={renews ? "text" : "numeric"}
              autoComplete={renews ? "new-password" : "one-time-code"}
              onChange={({ detail }) => setAnswer(detail.value)}
            />
          </FormField>
          {renews && (
            <FormField label="New password, once more" errorText={differ && "The two are not the same."}>
              <Input
                value={again}
                type="password"
                autoComplete="new-password"
                onChange={({ detail }) => setAgain(detail.value)}
              />
            </FormField>
          )}
        </SpaceBetween>
      </Form>
    </form>
  );
}
