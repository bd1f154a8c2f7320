import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import StatusIndicator, { type StatusIndicatorProps } from "@cloudscape-design/components/status-indicator";
import type { TableProps } from "@cloudscape-design/components/table";

import { Time } from "../../components/Time";
import type { Token } from "./queries";
import { standingOf, type Standing } from "./standing";

const SHOWN: Record<Standing, [StatusIndicatorProps.Type, string]> = {
  good: ["success", "Good"],
  soon: ["warning", "Ends soon"],
  expired: ["stopped", "Expired"],
  revoked: ["stopped", "Revoked"],
};

export function columns(now: number, onRevoke: (token: Token) => void): TableProps.ColumnDefinition<Token>[] {
  return [
    {
      id: "name",
      header: "What it is for",
      isRowHeader: true,
      minWidth: 230,
      cell: (token) => (
        <>
          {token.name}
          <Box variant="small" display="block" color="text-body-secondary">
            token {token.number}, made <Time at={token.created_at} brief /> by {token.created_by}
          </Box>
        </>
      ),
    },
    {
      id: "standing",
      header: "State",
      minWidth: 120,
      cell: (token) => {
        const [type, text] = SHOWN[standingOf(token, now)];
        return <StatusIndicator type={type}>{text}</StatusIndicator>;
      },
    },
    {
      id: "revoke",
      header: "Actions",
      minWidth: 100,
      cell: (token) =>
        ["good", "soon"].includes(standingOf(token, now)) ? (
          <Button variant="inline-link" ariaLabel={`Revoke ${token.name}`} onClick={() => onRevoke(token)}>
            Revoke
          </Button>
        ) : token.revoked_by ? (
          `by ${token.revoked_by}`
        ) : (
          ""
        ),
    },
    { id: "role", header: "Role", minWidth: 90, cell: (token) => token.role },
    { id: "areas", header: "Areas", minWidth: 130, cell: (token) => token.areas.join(", ") || "all" },
    { id: "until", header: "Good until", minWidth: 170, cell: (token) => <Time at={token.revoked_at ?? token.expires_at} brief /> },
    { id: "used", header: "Last used", minWidth: 170, cell: (token) => <Time at={token.last_used_at} brief missing="never" /> },
  ];
}
