import Spinner from "@cloudscape-design/components/spinner";

export function PageWaiting() {
  return (
    <div className="waiting" role="status" aria-label="Loading">
      <Spinner size="large" />
    </div>
  );
}
