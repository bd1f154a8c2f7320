import Box from "@cloudscape-design/components/box";
import Container from "@cloudscape-design/components/container";
import ContentLayout from "@cloudscape-design/components/content-layout";
import CopyToClipboard from "@cloudscape-design/components/copy-to-clipboard";
import Header from "@cloudscape-design/components/header";
import SpaceBetween from "@cloudscape-design/components/space-between";

const COMMAND = "make demo";

/** For a newcomer: there is no job yet, and the one command that changes that. */
export function NothingYet() {
  return (
    <ContentLayout header={<Header variant="h1">Dashboard</Header>}>
      <Container header={<Header variant="h2">No job has run here yet</Header>}>
        <SpaceBetween size="m">
          <Box>
            To see Perdure at work without an AWS account, type this in the repository. Two real jobs run, AWS takes
            their instances back, and they go on elsewhere. The demonstration has a console of its own, whose address it
            prints first. If this is that console, they appear here within half a minute.
          </Box>
          <Box fontSize="heading-m">
            <CopyToClipboard
              variant="inline"
              textToCopy={COMMAND}
              textToDisplay={COMMAND}
              copyButtonAriaLabel="Copy the command"
              copySuccessText="Copied"
              copyErrorText="Not copied"
            />
          </Box>
          <Box>
            With AWS: as soon as a job's container starts on an instance with Perdure's agent, the job is here. This page
            notices by itself.
          </Box>
        </SpaceBetween>
      </Container>
    </ContentLayout>
  );
}
