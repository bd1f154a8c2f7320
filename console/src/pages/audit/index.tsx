import ContentLayout from "@cloudscape-design/components/content-layout";
import Header from "@cloudscape-design/components/header";

export default function Audit() {
  return <ContentLayout header={<Header variant="h1">Audit log</Header>}>{null}</ContentLayout>;
}
