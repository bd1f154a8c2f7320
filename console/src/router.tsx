/** Every address of the console. A page's code is loaded when somebody goes there. */
import type { FetchQueryOptions, QueryClient } from "@tanstack/react-query";
import {
  createRootRouteWithContext,
  createRoute,
  createRouter,
  lazyRouteComponent,
  Outlet,
  redirect,
} from "@tanstack/react-router";

import { isSignedOut } from "./api/errors";
import { meQuery, type Me } from "./api/me";
import { PageFailed } from "./components/PageFailed";
import { PageMissing } from "./components/PageMissing";
import { PageWaiting } from "./components/PageWaiting";
import { Shell } from "./components/Shell";
import { alertsQuery, newestQuery, queuesQuery, reportQuery, trendsQuery } from "./pages/dashboard/queries";
import { validateAuditSearch } from "./pages/audit/search";
import { checkQuery, configurationQuery, historyQuery, TOLD_AT_ONCE } from "./pages/configuration/queries";
import { validateConfigurationSearch } from "./pages/configuration/search";
import { validateDashboardSearch } from "./pages/dashboard/search";
import { jobQuery, lifeLineQuery, workflowQuery } from "./pages/job/queries";
import { jobsQuery, pageSize, queueNamesQuery } from "./pages/jobs/queries";
import { validateJobsSearch } from "./pages/jobs/search";
import { nodeQuery } from "./pages/node/queries";
import { validateNodesSearch } from "./pages/nodes/search";
import { validateVolumesSearch } from "./pages/volumes/search";

const root = createRootRouteWithContext<{ queryClient: QueryClient }>()({ component: Outlet });

const QUICK_MS = 150;

/**
 * Pages for those who are signed in, inside the frame with navigation. A stranger is sent to sign in before anything is
 * asked for that would be refused. While the server is out of reach, pages are shown and say so.
 */
const shell = createRoute({
  getParentRoute: () => root,
  id: "shell",
  component: Shell,
  beforeLoad: async ({ context, location: { href } }) => {
    const asked = { ...meQuery, retry: false, meta: { expected: true } }; // what a stranger is answered is dealt with here
    const problem = await context.queryClient.ensureQueryData(asked).then(
      () => null,
      (refused: unknown) => refused,
    );
    if (isSignedOut(problem)) throw redirect({ to: "/sign-in", search: { next: href === "/" ? undefined : href } });
  },
});

// Loaders begin what a page asks for while its code is on its way. Pages show what is there.
const ask = (client: QueryClient, ...queries: unknown[]) => {
  return Promise.all(queries.map((query) => client.prefetchQuery(query as FetchQueryOptions)));
};
// Drawing takes longer than most answers: a quick one is waited for, so that a page is drawn once and not twice.
const quick = (asked: Promise<unknown>) => Promise.race([asked, new Promise((resolve) => setTimeout(resolve, QUICK_MS))]);

const dashboard = createRoute({
  getParentRoute: () => shell,
  path: "/",
  validateSearch: validateDashboardSearch,
  loaderDeps: ({ search }) => search,
  loader: ({ context: { queryClient }, deps }) => {
    import("./pages/dashboard/Chart").catch(() => undefined); // the page asks for it again, and says what is wrong
    void ask(queryClient, trendsQuery(deps), alertsQuery);
    return quick(ask(queryClient, reportQuery(deps), newestQuery, queuesQuery(deps)));
  },
  component: lazyRouteComponent(() => import("./pages/dashboard")),
});
const jobs = createRoute({
  getParentRoute: () => shell,
  path: "/jobs",
  validateSearch: validateJobsSearch,
  loaderDeps: ({ search }) => search,
  loader: ({ context: { queryClient }, deps }) => {
    void ask(queryClient, queueNamesQuery);
    return quick(ask(queryClient, jobsQuery(deps, pageSize())));
  },
  component: lazyRouteComponent(() => import("./pages/jobs")),
});
const job = createRoute({
  getParentRoute: () => shell,
  path: "/jobs/$jobId",
  loader: ({ context: { queryClient }, params: { jobId } }) => {
    void ask(queryClient, workflowQuery(jobId));
    return quick(ask(queryClient, jobQuery(jobId), lifeLineQuery(jobId)));
  },
  component: lazyRouteComponent(() => import("./pages/job")),
});
const nodes = createRoute({
  getParentRoute: () => shell,
  path: "/nodes",
  validateSearch: validateNodesSearch,
  component: lazyRouteComponent(() => import("./pages/nodes")),
});
const node = createRoute({
  getParentRoute: () => shell,
  path: "/nodes/$instanceId",
  loader: ({ context: { queryClient }, params: { instanceId } }) => quick(ask(queryClient, nodeQuery(instanceId))),
  component: lazyRouteComponent(() => import("./pages/node")),
});
const volumes = createRoute({
  getParentRoute: () => shell,
  path: "/volumes",
  validateSearch: validateVolumesSearch,
  component: lazyRouteComponent(() => import("./pages/volumes")),
});
const configuration = createRoute({
  getParentRoute: () => shell,
  path: "/configuration",
  validateSearch: validateConfigurationSearch,
  loaderDeps: ({ search }) => search,
  loader: ({ context: { queryClient }, deps: { tab } }) => {
    const isAdmin = queryClient.getQueryData<Me>(meQuery.queryKey)?.isAdmin;
    void ask(queryClient, configurationQuery);
    if (tab === "history") void queryClient.prefetchInfiniteQuery(historyQuery);
    else if (tab && isAdmin && TOLD_AT_ONCE.includes(tab)) void ask(queryClient, checkQuery(tab, {}));
  },
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
  validateSearch: validateAuditSearch,
  component: lazyRouteComponent(() => import("./pages/audit")),
});
/** Any other address: a child of the frame, so that the way on is there. */
const missing = createRoute({ getParentRoute: () => shell, path: "$", component: PageMissing });
const signIn = createRoute({
  getParentRoute: () => root,
  path: "/sign-in",
  validateSearch: (search: Record<string, unknown>): { next?: string; ended?: true } => ({
    next: typeof search.next === "string" ? search.next : undefined, // looked at where it is used
    ended: search.ended === true || undefined,
  }),
  component: lazyRouteComponent(() => import("./pages/sign-in")),
});

const routeTree = root.addChildren([
  shell.addChildren([dashboard, jobs, job, nodes, node, volumes, configuration, tokens, audit, missing]),
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
