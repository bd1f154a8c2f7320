"""Puts the API together: settings in, one FastAPI application out. The only place of wiring."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import Depends, FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.security import HTTPBearer

import perdure
from api.auth.api_tokens import by_api_token
from api.auth.audit_trail import AuditTrail, keep_tidy
from api.auth.door import Door, names_of
from api.auth.rate_limit import FailedTries, Refusals
from api.auth.sessions import SignIn
from api.auth.token_cookie import by_token_cookie
from api.auth.trials import Proofs
from api.routes import (
    alerts,
    audit,
    configuration,
    configuration_trials,
    console,
    docs,
    events,
    exports,
    health,
    installing,
    jobs,
    life_line,
    logs,
    nodes,
    orphans,
    outputs,
    prometheus,
    reports,
    resume,
    stream,
    tokens,
    volumes,
)
from api.routes import sign_in as sign_in_routes
from api.routes.mmbatch import configuration as mmbatch_configuration
from api.routes.mmbatch import jobs as mmbatch_jobs
from api.routes.mmbatch import logs as mmbatch_logs
from api.routes.mmbatch import metrics as mmbatch_metrics
from api.routes.mmbatch import security as mmbatch_security
from api.serving import errors
from api.serving.access_log import AccessLog, open_access_log
from api.serving.feed import Feed
from api.serving.guards import Guards
from api.serving.reading import readers
from api.serving.traces import traced
from api.workflows import JobWorkflows
from perdure.logs import apply_log_settings
from perdure.records.schema.database import migrate, open_engine
from perdure.records.settings.log_settings import follow_log_settings
from perdure.settings import ApiSettings, connect_temporal
from perdure.tracing import OFF, Tracing

DESCRIPTION = """\
What Perdure knows of your AWS Batch jobs, the nodes they run on and the checkpoints it took, and the few things that
can be asked of it.

Times are UTC (ISO 8601), durations are seconds, sizes are bytes unless a name says otherwise. Lists come in pages: pass
`next` as `cursor` until it is null. Every error has one shape:
`{"error": {"code": "…", "message": "…", "details": […]}}`.
"""


RESOURCES = (
    jobs.router,
    life_line.router,
    reports.router,
    nodes.router,
    orphans.router,
    volumes.router,
    configuration.router,
    configuration_trials.router,
    tokens.router,
    audit.router,
    sign_in_routes.router,
    health.router,
    alerts.router,
    exports.router,
    events.router,
    stream.router,
    mmbatch_jobs.router,
    logs.router,
    outputs.router,
    mmbatch_logs.router,
    resume.router,
    mmbatch_configuration.router,
    mmbatch_metrics.router,
    mmbatch_security.router,
    installing.router,
)
"""Below /api/v1, in the order of the API's pages."""
PAGES = (mmbatch_logs.root, installing.root, prometheus.root)


def create_app(settings: ApiSettings, tracing: Tracing = OFF) -> FastAPI:
    """The API. Opens the database and brings its tables up to date when it starts to serve; Temporal may be away."""

    refusals, sign_in = Refusals(), SignIn()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        open_access_log(settings.log_file)
        engine = open_engine(settings.database_url)
        await run_in_threadpool(migrate, engine)
        app.state.settings = settings
        app.state.engine = engine
        app.state.readers = readers()
        app.state.feed = Feed(engine)
        app.state.workflows = JobWorkflows(await connect_temporal(interceptors=tracing.interceptors()))
        tidying = asyncio.create_task(keep_tidy(app, refusals))
        logging = asyncio.create_task(
            follow_log_settings(engine, partial(apply_log_settings, level_fixed=settings.log_level_fixed))
        )
        yield
        tidying.cancel()
        logging.cancel()
        await asyncio.wait([tidying, logging])
        sign_in.close()
        engine.dispose()
        open_access_log(None)

    app = FastAPI(
        title="Perdure",
        version=perdure.__version__,
        summary="AWS Batch jobs that outlive the Spot instances they run on.",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat whatever name the request came by
        openapi_url="/api/v1/openapi.json",
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        responses=errors.COMMON,
        telemetry=traced(tracing),
        # The door looks at it; here it only makes the API pages ask for a token.
        dependencies=[Depends(HTTPBearer(auto_error=False, scheme_name="token", description="An API token."))],
    )
    app.state.sign_in, app.state.failed_tries, app.state.proofs = sign_in, FailedTries(), Proofs()
    for router in RESOURCES:
        app.include_router(router, prefix="/api/v1")
    for router in PAGES:
        app.include_router(router)
    docs.add_to(app)
    console.add_to(app)  # the last of all: it answers what nobody else does
    errors.add_to(app)
    authenticators = (by_api_token, sign_in.by_bearer, sign_in.by_cookie, by_token_cookie)
    # The last one added stands outermost.
    app.add_middleware(Door, settings=settings, authenticators=authenticators)
    app.add_middleware(Guards, names=names_of(settings))
    app.add_middleware(AuditTrail, refusals=refusals)
    app.add_middleware(AccessLog)
    return app
