/** Every address of the console. A page's code is loaded when somebody goes there. */
import type { QueryClient } from "@tanstack/react-query";
import {
  createRootRouteWithContext,
  createRoute,
  createRouter,
  lazyRouteComponent,
  Outlet,
} from "@tanstack/react-router";

import { PageFailed } from "./components/PageFailed";
import { PageMissing } from "./components/PageMissing";
import { PageWaiting } from "./components/PageWaiting";
import { Shell } from "./components/Shell";
import { validateDashboardSearch } from "./pages/dashboard/search";
import { validateJobsSearch } from "./pages/jobs/search";

const root = createRootRouteWithContext<{ queryClient: QueryClient }>()({ component: Outlet });

/** Pages for those who are signed in, inside the frame with navigation. */
const shell = createRoute({ getParentRoute: () => root, id: "shell", component: Shell });

const dashboard = createRoute({
  getParentRoute: () => shell,
  path: "/",
  validateSearch: validateDashboardSearch,
  component: lazyRouteComponent(() => import("./pages/dashboard")),
});
const jobs = createRoute({
  getParentRoute: () => shell,
  path: "/jobs",
  validateSearch: validateJobsSearch,
  component: lazyRouteComponent(() => import("./pages/jobs")),
});
const job = createRoute({
  getParentRoute: () => shell,
  path: "/jobs/$jobId",
  component: lazyRouteComponent(() => import("./pages/job")),
});
const nodes = createRoute({
  getParentRoute: () => shell,
  path: "/nodes",
  component: lazyRouteComponent(() => import("./pages/nodes")),
});
const node = createRoute({
  getParentRoute: () => shell,
  path: "/nodes/$instanceId",
  component: lazyRouteComponent(() => import("./pages/node")),
});
const volumes = createRoute({
  getParentRoute: () => shell,
  path: "/volumes",
  component: lazyRouteComponent(() => import("./pages/volumes")),
});
const configuration = createRoute({
  getParentRoute: () => shell,
  path: "/configuration",
  component: lazyRouteComponent(() => import("./pages/configuration")),
});
const tokens = createRoute({
  getParentRoute: () => shell,
  path: "/tokens",
  component: lazyRouteComponent(() => import("./pages/tokens")),
});
const audit = createRoute({
  getParentRoute: () => shell,
  path: "/audit",
  component: lazyRouteComponent(() => import("./pages/audit")),
});
const signIn = createRoute({
  getParentRoute: () => root,
  path: "/sign-in",
  validateSearch: (search: Record<string, unknown>): { next?: string } => ({
    next: typeof search.next === "string" && /^\/(?![/\\])/.test(search.next) ? search.next : undefined,
  }),
  component: lazyRouteComponent(() => import("./pages/sign-in")),
});

const routeTree = root.addChildren([
  shell.addChildren([dashboard, jobs, job, nodes, node, volumes, configuration, tokens, audit]),
  signIn,
]);

export function makeRouter(queryClient: QueryClient) {
  return createRouter({
    routeTree,
    context: { queryClient },
    defaultPreload: "intent",
    defaultPendingComponent: PageWaiting,
    defaultErrorComponent: PageFailed,
    defaultNotFoundComponent: PageMissing,
    scrollRestoration: true,
  });
}

declare module "@tanstack/react-router" {
  interface Register {
    router: ReturnType<typeof makeRouter>;
  }
}
