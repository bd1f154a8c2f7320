"""What endpoints ask for by type: the database, the workflows, the settings, a job id that can be one.

What does not wait is `async`, so that it costs no way through the thread pool.
"""

from __future__ import annotations

import re
from typing import Annotated, cast

from fastapi import Depends, Path, Query, Request
from fastapi.responses import RedirectResponse
from sqlalchemy import Engine

from api.auth.principals import Principal
from api.auth.sessions import to_sign_in
from api.auth.trials import Proofs
from api.workflows import JobWorkflows
from perdure.domain.errors import NotSignedIn, UnknownJob
from perdure.settings import ApiSettings

LARGEST_PAGE = 200
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.-]{0,127}")


async def _engine(request: Request) -> Engine:
    return cast(Engine, request.app.state.engine)


async def _workflows(request: Request) -> JobWorkflows:
    return cast(JobWorkflows, request.app.state.workflows)


async def _settings(request: Request) -> ApiSettings:
    return cast(ApiSettings, request.app.state.settings)


async def _perhaps_asking(request: Request) -> Principal | None:
    return cast("Principal | None", request.state.principal)


async def _asking(principal: Annotated[Principal | None, Depends(_perhaps_asking)]) -> Principal:
    if principal is None:
        raise NotSignedIn("Nobody is signed in.")
    return principal


async def _proofs(request: Request) -> Proofs:
    return cast(Proofs, request.app.state.proofs)


async def _job_id(
    job_id: Annotated[str, Path(description="AWS Batch's job id.", examples=["5b3f1d0e-8a0c-4c8e-9f0e-2d6c8a1b7e55"])],
) -> str:
    """Whatever cannot be an id is an unknown one; it never gets as far as the database."""
    if not _JOB_ID.fullmatch(job_id):
        raise UnknownJob(f"There is no job {job_id[:60]!r}.")
    return job_id


Database = Annotated[Engine, Depends(_engine)]
Workflows = Annotated[JobWorkflows, Depends(_workflows)]
Settings = Annotated[ApiSettings, Depends(_settings)]
Asking = Annotated[Principal, Depends(_asking)]
"""Who asks; the door found out."""
PerhapsAsking = Annotated[Principal | None, Depends(_perhaps_asking)]
"""The same on a route that anyone may use: None for a stranger."""
ToSignIn = Annotated[RedirectResponse | None, Depends(to_sign_in)]
"""For pages: where a stranger goes to sign in; None for others, and where there is no sign-in."""
SignInProofs = Annotated[Proofs, Depends(_proofs)]
"""Who has shown lately that an admin gets in."""
JobId = Annotated[str, Depends(_job_id)]
InstanceId = Annotated[
    str,
    Path(pattern="^[A-Za-z0-9][A-Za-z0-9-]{0,63}$", description="EC2 instance id.", examples=["i-0123456789abcdef0"]),
]
Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="Entries per page.")]
Cursor = Annotated[str | None, Query(max_length=1000, description="`next` of the page before.")]
