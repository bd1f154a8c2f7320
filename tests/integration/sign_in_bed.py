"""The API with sign-in on, in this process, at a pool of localcloud; and requests as a browser makes them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import httpx
from fastapi import FastAPI
from sqlalchemy import delete

from api.app import create_app
from api.auth.door import Door
from api.auth.rate_limit import FailedTries, Refusals
from api.auth.trials import Proofs
from perdure.domain.configuration import CognitoConfiguration, SystemConfiguration
from perdure.records.schema.access_tables import AuditRow, TokenRow
from perdure.records.schema.database import migrate, open_engine, writing
from perdure.records.schema.sign_in_tables import HostedWayRow, SessionRow
from perdure.records.settings.configuration import save_configuration
from perdure.settings import ApiSettings
from tests.integration.pool_bed import SERVER, PoolBed

BROWSER = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors", "origin": SERVER}


def cognito_of(bed: PoolBed, **changes: Any) -> CognitoConfiguration:
    """The section that names the bed's pool."""
    pool = bed.pool
    given = {
        "enabled": True,
        "region": pool.region,
        "user_pool_id": pool.user_pool_id,
        "client_id": pool.client_id,
        "domain": pool.domain,
    }
    return CognitoConfiguration.model_validate(given | changes)


@dataclass
class Served:
    """The application, and who asks it."""

    app: FastAPI
    http: httpx.AsyncClient
    """Somebody without any sign-in."""

    def begin_anew(self, cognito: CognitoConfiguration) -> None:
        """Nobody is signed in, nobody failed, nothing is noted: an application is dear to start, so tests share one."""
        with writing(self.app.state.engine) as session:
            for table in (SessionRow, HostedWayRow, TokenRow, AuditRow):
                session.execute(delete(table))
        self.app.state.failed_tries, self.app.state.proofs = FailedTries(), Proofs()
        for part in self.app.user_middleware:
            if "refusals" in part.kwargs:  # those of the tests before would cost this one its lines in the audit log
                cast(Refusals, part.kwargs["refusals"])._minute = -1
        self.http.cookies.clear()
        self.configure(cognito)

    def configure(self, cognito: CognitoConfiguration) -> None:
        """Save the section, and have it hold at once."""
        with writing(self.app.state.engine) as session:
            save_configuration(session, SystemConfiguration(cognito=cognito), at=datetime.now(UTC), by="test")
        self.forget_sign_in()

    def forget_sign_in(self) -> None:
        """What the server believes for a second is looked up at the next request: tests do not wait."""
        self.app.state.sign_in.forget()
        door: Any = self.app.middleware_stack
        while door is not None and not isinstance(door, Door):
            door = getattr(door, "app", None) or getattr(door, "_app", None)
        if door is not None:
            door._asked_at = float("-inf")

    @asynccontextmanager
    async def browser(self, base_url: str = SERVER) -> AsyncIterator[httpx.AsyncClient]:
        """A browser of its own, at a page of this server."""
        transport = httpx.ASGITransport(app=self.app)
        async with httpx.AsyncClient(transport=transport, base_url=base_url, headers=BROWSER) as browser:
            yield browser


@asynccontextmanager
async def sign_in_bed(folder: Path, bed: PoolBed, **changes: Any) -> AsyncIterator[Served]:
    """Serve with a database of its own. AWS_ENDPOINT_URL must name the bed (see `at_the_bed`)."""
    url = f"sqlite:///{folder}/perdure.db"
    engine = open_engine(url)
    migrate(engine)
    with writing(engine) as session:
        save_configuration(
            session, SystemConfiguration(cognito=cognito_of(bed, **changes)), at=datetime.now(UTC), by="test"
        )
    engine.dispose()
    app = create_app(ApiSettings(database_url=url))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url=SERVER) as http:
            yield Served(app, http)
