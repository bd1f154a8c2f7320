import Button from "@cloudscape-design/components/button";
import Form from "@cloudscape-design/components/form";
import FormField from "@cloudscape-design/components/form-field";
import Input from "@cloudscape-design/components/input";
import { useState } from "react";

type Props = { busy: boolean; autoFocus?: boolean; onSubmit: (token: string) => void };

/** Sign-in by API token: where there is no user pool. */
export function TokenForm({ busy, autoFocus, onSubmit }: Props) {
  const [token, setToken] = useState("");
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        if (!busy && token) onSubmit(token.trim());
      }}
    >
      <Form
        actions={
          <Button variant="primary" loading={busy} disabled={!token}>
            Sign in
          </Button>
        }
      >
        <FormField
          label="API token"
          description={
            <>
              It begins with prd_. On the server&apos;s machine <code>perdure auth token create console --role admin</code>{" "}
              makes one.
            </>
          }
        >
          <Input
            value={token}
            type="password"
            name="token"
            autoComplete="off"
            autoFocus={autoFocus}
            onChange={({ detail }) => setToken(detail.value)}
          />
        </FormField>
      </Form>
    </form>
  );
}
