import ContentLayout from "@cloudscape-design/components/content-layout";
import Header from "@cloudscape-design/components/header";

export default function Configuration() {
  return <ContentLayout header={<Header variant="h1">Configuration</Header>}>{null}</ContentLayout>;
}
