import Button from "@cloudscape-design/components/button";
import Form from "@cloudscape-design/components/form";
import FormField from "@cloudscape-design/components/form-field";
import Input from "@cloudscape-design/components/input";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { useState } from "react";

type Props = {
  busy: boolean;
  submitText: string;
  autoFocus?: boolean;
  onSubmit: (username: string, password: string) => void;
};

/** User name and password, as a password manager expects them. */
export function PasswordForm({ busy, submitText, autoFocus, onSubmit }: Props) {
  const [username, setUsername] = useState("");
  const [password, setPassword] = useState("");
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        if (!busy && username && password) onSubmit(username.trim(), password);
      }}
    >
      <Form
        actions={
          <Button variant="primary" loading={busy} disabled={!username || !password}>
            {submitText}
          </Button>
        }
      >
        <SpaceBetween size="m">
          <FormField label="User name">
            <Input
              value={username}
              name="username"
              autoComplete="username"
              spellcheck={false}
              autoFocus={autoFocus}
              onChange={({ detail }) => setUsername(detail.value)}
            />
          </FormField>
          <FormField label="Password">
            <Input
              value={password}
              type="password"
              name="password"
              autoComplete="current-password"
              onChange={({ detail }) => setPassword(detail.value)}
            />
          </FormField>
        </SpaceBetween>
      </Form>
    </form>
  );
}
