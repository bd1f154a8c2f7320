"""No change of the sign-in may leave nobody who could undo it. All endpoints that change the configuration ask here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine
from sqlmodel import Session

from api.auth.cognito import Pool
from api.auth.door import is_loopback
from api.auth.principals import Role
from perdure.domain.configuration import CognitoConfiguration, SystemConfiguration
from perdure.domain.errors import LockOut, NotAllowed, NotSignedIn
from perdure.records.access.tokens import admin_token_exists
from perdure.records.schema.database import reading
from perdure.records.settings.configuration import current_configuration
from perdure.settings import ApiSettings


async def check_pool(database: Engine, transform: Callable[[SystemConfiguration], SystemConfiguration]) -> None:
    """Before a change: if it names a pool to sign in with, that pool's keys must be there. CloudUnavailable, and
    whatever `transform` raises."""
    before = await run_in_threadpool(_current, database)
    wanted = transform(before).cognito
    if wanted.enabled and wanted != before.cognito:
        pool = Pool(wanted)
        try:
            await pool.reachable()
        finally:
            pool.close()


async def proves_admin(cognito: CognitoConfiguration, id_token: str) -> None:
    """Returns if this ID token of that pool is an admin's. LockOut when it is not, CloudUnavailable."""
    pool = Pool(cognito)
    try:
        role = pool.role((await pool.verify(id_token, use="id")).groups)
    except (NotSignedIn, NotAllowed) as problem:
        raise LockOut(f"The ID token does not prove that an admin can sign in: {problem}") from None
    finally:
        pool.close()
    if role is not Role.ADMIN:
        admins = ", ".join(cognito.admin_groups)
        raise LockOut(f"The ID token's owner is in none of the admin groups ({admins}) of that pool.")


def refuse_lock_out(
    session: Session,
    settings: ApiSettings,
    before: CognitoConfiguration,
    wanted: CognitoConfiguration,
    proven: CognitoConfiguration | None,
) -> None:
    """Within the change's transaction: LockOut unless somebody can still get in as admin afterwards. `proven`: the
    sign-in with which an admin has shown to get in; what does not decide who gets in may differ from it."""
    if wanted == before or admin_token_exists(session, datetime.now(UTC)):
        return
    shown = {_who_gets_in(each) for each in (before, proven) if each is not None}
    if wanted.enabled and _who_gets_in(wanted) not in shown:
        raise LockOut(
            "Nobody has shown that an admin can sign in with this user pool, and there is no admin API token. Try a "
            "sign-in as an admin (POST /api/v1/configuration/cognito/try), send an admin's ID token as idToken to PUT "
            "/api/v1/security/cognito, or make an admin API token first."
        )
    if before.enabled and not wanted.enabled and not is_loopback(settings.api_host):
        raise LockOut(
            f"This server listens on {settings.api_host}, and without Cognito nobody could get in: make an admin API "
            "token first, or use `perdure auth cognito disable` on the server's machine."
        )


def _who_gets_in(cognito: CognitoConfiguration) -> tuple[object, ...]:
    groups = frozenset(cognito.admin_groups)
    return (cognito.enabled, cognito.region, cognito.user_pool_id, cognito.client_id, groups)


def _current(database: Engine) -> SystemConfiguration:
    with reading(database) as session:
        return current_configuration(session)
