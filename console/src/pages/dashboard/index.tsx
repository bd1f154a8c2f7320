import ContentLayout from "@cloudscape-design/components/content-layout";
import Header from "@cloudscape-design/components/header";

export default function Dashboard() {
  return <ContentLayout header={<Header variant="h1">Dashboard</Header>}>{null}</ContentLayout>;
}
