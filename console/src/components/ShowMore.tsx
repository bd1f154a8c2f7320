import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";

type Props = { loading: boolean; onMore: () => void };

/** The way to the next page of a list that is read page by page. */
export function ShowMore({ loading, onMore }: Props) {
  return (
    <Box textAlign="center">
      <Button loading={loading} onClick={onMore}>
        Show more
      </Button>
    </Box>
  );
}
