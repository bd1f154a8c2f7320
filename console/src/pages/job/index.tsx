import ContentLayout from "@cloudscape-design/components/content-layout";
import Header from "@cloudscape-design/components/header";

export default function Job() {
  return <ContentLayout header={<Header variant="h1">Job</Header>}>{null}</ContentLayout>;
}
