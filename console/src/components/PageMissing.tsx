import Box from "@cloudscape-design/components/box";
import ContentLayout from "@cloudscape-design/components/content-layout";
import Header from "@cloudscape-design/components/header";

import { RouterLink } from "./RouterLink";

export function PageMissing() {
  return (
    <ContentLayout header={<Header variant="h1">There is no such page</Header>}>
      <Box>
        The address may be mistyped. Go to the <RouterLink to="/">dashboard</RouterLink>, or look for a job in the{" "}
        <RouterLink to="/jobs">list of jobs</RouterLink>.
      </Box>
    </ContentLayout>
  );
}
