/** The frame of a page about one thing of a list: the way back to the list, its header, and its parts. */
import BreadcrumbGroup from "@cloudscape-design/components/breadcrumb-group";
import ContentLayout from "@cloudscape-design/components/content-layout";
import SpaceBetween from "@cloudscape-design/components/space-between";
import { useRouter, type RegisteredRouter, type ToPathOption } from "@tanstack/react-router";
import type { ReactNode } from "react";

import { isMissing } from "../api/errors";
import { Failure } from "./Failure";
import { PageWaiting } from "./PageWaiting";

type Props<T> = {
  list: { text: string; to: ToPathOption<RegisteredRouter, string, string>; search?: () => Record<string, unknown> };
  name: string;
  asked: { data: T | undefined; error: unknown; refetch: () => unknown };
  header: (thing: T) => ReactNode;
  children: (thing: T) => ReactNode;
};

/** `search`: of the list's address, as it was last looked at. What is known stays while it is asked for again. */
export function DetailPage<T>({ list, name, asked: { data, error, refetch }, header, children }: Props<T>) {
  const router = useRouter();
  const trail = (
    <BreadcrumbGroup
      ariaLabel="Breadcrumbs"
      items={[
        { text: list.text, href: list.to },
        { text: name, href: "" },
      ]}
      onFollow={(event) => {
        event.preventDefault();
        const target = { to: list.to, search: list.search?.() } as Parameters<typeof router.navigate>[0];
        if (event.detail.href) void router.navigate(target);
      }}
    />
  );
  if (error != null && data === undefined)
    return (
      <ContentLayout header={trail}>
        <Failure problem={error} onRetry={isMissing(error) ? undefined : () => void refetch()} />
      </ContentLayout>
    );
  if (data === undefined) return <PageWaiting />;
  return (
    <ContentLayout
      header={
        <SpaceBetween size="xs">
          {trail}
          {header(data)}
        </SpaceBetween>
      }
    >
      {children(data)}
    </ContentLayout>
  );
}
