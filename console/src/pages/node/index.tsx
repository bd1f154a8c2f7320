import ContentLayout from "@cloudscape-design/components/content-layout";
import Header from "@cloudscape-design/components/header";

export default function Node() {
  return <ContentLayout header={<Header variant="h1">Worker node</Header>}>{null}</ContentLayout>;
}
