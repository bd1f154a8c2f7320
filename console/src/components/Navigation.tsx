import Box from "@cloudscape-design/components/box";
import SideNavigation, { type SideNavigationProps } from "@cloudscape-design/components/side-navigation";
import { useLocation, useRouter } from "@tanstack/react-router";

import { useIsAdmin } from "../api/me";

const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone || "this browser";
const WATCH: SideNavigationProps.Item[] = [
  { type: "link", text: "Dashboard", href: "/" },
  { type: "link", text: "Jobs", href: "/jobs" },
  { type: "link", text: "Worker nodes", href: "/nodes" },
  { type: "link", text: "Volumes", href: "/volumes" },
  { type: "divider" },
  { type: "link", text: "Configuration", href: "/configuration" },
];
const ADMINISTER: SideNavigationProps.Item[] = [
  { type: "link", text: "API tokens", href: "/tokens" },
  { type: "link", text: "Audit log", href: "/audit" },
];
const ELSEWHERE: SideNavigationProps.Item[] = [
  { type: "divider" },
  { type: "link", text: "API", href: "/docs", external: true, externalIconAriaLabel: "opens in a new tab" },
];

export function Navigation({ onFollowed }: { onFollowed: () => void }) {
  const router = useRouter();
  const first = useLocation({ select: ({ pathname }) => pathname.split("/")[1] ?? "" });
  const items = [...WATCH, ...(useIsAdmin() ? ADMINISTER : []), ...ELSEWHERE];
  return (
    <>
      <SideNavigation
        header={{ text: "Perdure", href: "/" }}
        activeHref={`/${first}`}
        items={items}
        onFollow={(event) => {
          if (event.detail.external) return;
          event.preventDefault();
          void router.navigate({ to: event.detail.href });
          onFollowed();
        }}
      />
      <Box variant="small" color="text-body-secondary" padding={{ horizontal: "xl", bottom: "l" }} display="block">
        {ZONE === "UTC" ? "Times are UTC." : `Times are those of ${ZONE}. Point at one to read it in UTC.`}
      </Box>
    </>
  );
}
