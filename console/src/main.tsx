/** Begins the console: theme, then the cache, the routes and the messages of the components. */
import "@cloudscape-design/global-styles/index.css";
import "./console.css";

import { I18nProvider } from "@cloudscape-design/components/i18n";
import messages from "@cloudscape-design/components/i18n/messages/all.en";
import { QueryClientProvider } from "@tanstack/react-query";
import { RouterProvider } from "@tanstack/react-router";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { meQuery, type Me } from "./api/me";
import { makeQueryClient } from "./api/queryClient";
import { followReach, isAway, lookOnce } from "./api/reach";
import { makeRouter } from "./router";
import { followTheme } from "./theme";

followTheme();

const queryClient = makeQueryClient(() => {
  const { pathname, href } = router.state.location;
  if (pathname === "/sign-in") return;
  const me = queryClient.getQueryData<Me>(meQuery.queryKey);
  const ended = (me !== undefined && me.via !== "loopback") || undefined;
  void router.navigate({ to: "/sign-in", search: { next: href === "/" ? undefined : href, ended }, replace: true });
});
const router = makeRouter(queryClient);
followReach(() => void queryClient.invalidateQueries());

// Code and styles that did not come once are not asked for again. Once the server is there, the next page is loaded anew.
let incomplete = false;
window.addEventListener("vite:preloadError", () => {
  incomplete = true;
  lookOnce();
});
router.subscribe("onBeforeNavigate", ({ toLocation, pathChanged }) => {
  if (incomplete && pathChanged && !isAway()) location.assign(toLocation.href);
});

createRoot(document.getElementById("console")!).render(
  <StrictMode>
    <I18nProvider locale="en" messages={[messages]}>
      <QueryClientProvider client={queryClient}>
        <RouterProvider router={router} />
      </QueryClientProvider>
    </I18nProvider>
  </StrictMode>,
);
