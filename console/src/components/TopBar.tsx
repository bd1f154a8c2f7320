import TopNavigation, { type TopNavigationProps } from "@cloudscape-design/components/top-navigation";
import { useQueryClient } from "@tanstack/react-query";
import { useRouter } from "@tanstack/react-router";

import { api } from "../api/client";
import { useMe, type Me } from "../api/me";
import { chooseTheme, useTheme, type Theme } from "../theme";

const THEMES: Record<Theme, string> = { system: "As the system", light: "Light", dark: "Dark" };

export function TopBar() {
  const router = useRouter();
  const client = useQueryClient();
  const me = useMe();
  const theme = useTheme();

  async function signOut() {
    await api.POST("/api/v1/auth/sign-out");
    sessionStorage.clear(); // what was typed and not saved is nobody else's
    await router.navigate({ to: "/sign-in" });
    // Not before: a page that is still there would ask anew. What the sign-in page asks for stays.
    client.removeQueries({ predicate: ({ queryKey }) => queryKey[0] !== "sign-in" });
  }

  const utilities: TopNavigationProps.Utility[] = [
    {
      type: "menu-dropdown",
      iconName: "settings",
      ariaLabel: "Appearance",
      title: "Appearance",
      items: (Object.keys(THEMES) as Theme[]).map((id) => ({
        id,
        text: THEMES[id],
        itemType: "checkbox",
        checked: id === theme,
      })),
      onItemClick: ({ detail }) => chooseTheme(detail.id as Theme),
    },
  ];
  if (me) utilities.push(userMenu(me, () => void signOut()));
  return (
    <div id="top-bar">
      <TopNavigation
        identity={{
          href: "/",
          title: "Perdure",
          onFollow: (event) => {
            event.preventDefault();
            void router.navigate({ to: "/" });
          },
        }}
        utilities={utilities}
      />
    </div>
  );
}

/** Who is signed in and as what. Over loopback nobody signs in, so nobody can sign out either. */
function userMenu(me: Me, signOut: () => void): TopNavigationProps.Utility {
  const local = me.via === "loopback";
  return {
    type: "menu-dropdown",
    iconName: "user-profile",
    text: local ? "This machine" : me.name,
    description: local ? "No sign-in is set up: everybody on this machine is an administrator." : `Role: ${me.role}`,
    items: local ? [] : [{ id: "sign-out", text: "Sign out" }],
    onItemClick: ({ detail }) => detail.id === "sign-out" && signOut(),
  };
}
