/** The audit log: who changed what, and who was refused. For administrators. */
import Box from "@cloudscape-design/components/box";
import Button from "@cloudscape-design/components/button";
import Header from "@cloudscape-design/components/header";
import Input from "@cloudscape-design/components/input";
import Select from "@cloudscape-design/components/select";
import SpaceBetween from "@cloudscape-design/components/space-between";
import Table from "@cloudscape-design/components/table";
import { infiniteQueryOptions, keepPreviousData, useInfiniteQuery } from "@tanstack/react-query";
import { useNavigate, useSearch } from "@tanstack/react-router";

import { api, wanted } from "../../api/client";
import { AdminsOnly } from "../../components/AdminsOnly";
import { Failure } from "../../components/Failure";
import { ShowMore } from "../../components/ShowMore";
import { useAsked, useTitle, useTyped } from "../../hooks";
import { columns } from "./columns";
import { asked, validateAuditSearch, type AuditSearch, type Since } from "./search";

const PER_PAGE = 50;
const TYPING_MS = 400;
const SINCE: { value: string; label: string }[] = [
  { value: "", label: "At any time" },
  { value: "hour", label: "Last hour" },
  { value: "day", label: "Last 24 hours" },
  { value: "week", label: "Last 7 days" },
];

const auditQuery = (search: AuditSearch) =>
  infiniteQueryOptions({
    queryKey: ["audit", search],
    queryFn: ({ pageParam }) =>
      wanted(
        api.GET("/api/v1/audit", {
          params: { query: { ...asked(search, new Date()), limit: PER_PAGE, cursor: pageParam } },
        }),
      ),
    initialPageParam: undefined as string | undefined,
    getNextPageParam: (last) => last.next ?? undefined,
    placeholderData: keepPreviousData,
    staleTime: 0,
  });

export default function AuditPage() {
  useTitle("Audit log");
  return (
    <AdminsOnly title="Audit log">
      <Audit />
    </AdminsOnly>
  );
}

function Audit() {
  const search = useSearch({ from: "/shell/audit" });
  const wish = useAsked("/audit", search, validateAuditSearch);
  const navigate = useNavigate({ from: "/audit" });
  const go = (change: AuditSearch) => void navigate({ search: (now) => ({ ...now, ...change }), replace: true });
  const { data, error, refetch, isPending, isFetching, hasNextPage, isFetchingNextPage, fetchNextPage } =
    useInfiniteQuery(auditQuery(search));
  const lines = data?.pages.flatMap((page) => page.items) ?? [];
  const filtered = Boolean(search.who || search.action || search.since);
  return (
    <SpaceBetween size="m">
      {error && <Failure problem={error} onRetry={() => void refetch()} />}
      <Table
        variant="full-page"
        stickyHeader
        contentDensity="compact"
        wrapLines
        items={error ? [] : lines}
        trackBy="number"
        loading={isPending}
        loadingText="Reading the audit log"
        columnDefinitions={columns(go)}
        ariaLabels={{ tableLabel: "Audit log" }}
        header={
          <Header
            variant="awsui-h1-sticky"
            description="Every change and every refused request, the newest first. Names of fields are noted, their values never."
            actions={
              <Button
                iconName="refresh"
                ariaLabel="Read again"
                loading={isFetching && !isFetchingNextPage}
                onClick={() => void refetch()}
              />
            }
          >
            Audit log
          </Header>
        }
        filter={
          <SpaceBetween size="s" direction="horizontal">
            <Exactly label="Who" text={wish.who ?? ""} onText={(who) => go({ who })} />
            <Exactly label="Action" text={wish.action ?? ""} onText={(action) => go({ action })} />
            <Select
              ariaLabel="When"
              selectedOption={SINCE.find((one) => one.value === (wish.since ?? "")) ?? null}
              options={SINCE}
              onChange={({ detail }) => go({ since: (detail.selectedOption.value || undefined) as Since | undefined })}
            />
            {filtered && (
              <Button variant="link" onClick={() => go({ who: undefined, action: undefined, since: undefined })}>
                Show all
              </Button>
            )}
          </SpaceBetween>
        }
        empty={
          <Box textAlign="center" padding="l" color="inherit">
            {filtered ? "There is no such line. Names and actions are compared exactly." : "Nothing has been changed yet."}
          </Box>
        }
        footer={hasNextPage && <ShowMore loading={isFetchingNextPage} onMore={() => void fetchNextPage()} />}
      />
    </SpaceBetween>
  );
}

/** A filter that compares exactly. */
function Exactly({ label, text, onText }: { label: string; text: string; onText: (text: string | undefined) => void }) {
  const [typed, type] = useTyped(text, (next) => onText(next || undefined), TYPING_MS);
  return (
    <Input
      type="search"
      ariaLabel={label}
      placeholder={label}
      value={typed}
      onChange={({ detail }) => type(detail.value)}
    />
  );
}
