import Box from "@cloudscape-design/components/box";
import ContentLayout from "@cloudscape-design/components/content-layout";
import Header from "@cloudscape-design/components/header";
import type { ReactNode } from "react";

import { useMe } from "../api/me";
import { RouterLink } from "./RouterLink";

/** A page for administrators: a viewer who comes by its address is told so, and nothing is asked that would be refused. */
export function AdminsOnly({ title, children }: { title: string; children: ReactNode }) {
  const me = useMe();
  if (me === null || me.isAdmin) return children;
  return (
    <ContentLayout header={<Header variant="h1">{title}</Header>}>
      <Box>
        This page is for administrators. You are signed in as {me.name}, a viewer. Ask an administrator, or go to the{" "}
        <RouterLink to="/">dashboard</RouterLink>.
      </Box>
    </ContentLayout>
  );
}
