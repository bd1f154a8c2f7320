"""Runs the API server: `python -m api`. Refuses to start where strangers could get in or listen."""

from __future__ import annotations

from perdure import garbage

if __name__ == "__main__":
    garbage.none_while_loading()

import asyncio
import resource
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog
import uvicorn
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from api.app import create_app
from api.auth.binding import check_binding, somebody_can_sign_in
from api.auth.bootstrap import bootstrap, certificate_of
from api.configuration.server_section import serving
from api.serving.connection import LARGEST_HEAD, Connection
from api.serving.tls import LiveCertificate
from perdure.certificates import CertificateFiles
from perdure.domain.configuration import ServerConfiguration
from perdure.domain.errors import ConfigurationInvalid
from perdure.leaving import leave
from perdure.logs import configure_logs
from perdure.records.schema.database import migrate, open_engine, reading
from perdure.records.settings.configuration import current_configuration
from perdure.settings import ApiSettings
from perdure.tracing import OFF, Tracing, begin_tracing

log = structlog.get_logger(__name__)

REFUSED, FAILED = 2, 1
SWITCH_SECONDS = 0.0005
"""How long one thread computes while another one wants to. Python's own 5 ms are waited for after each of a request's
ten words with the database (bench/README.md)."""
OPEN_FILES = 65536


@dataclass(frozen=True)
class Start:
    """How the server is to be started: `settings` with the address and port that hold."""

    settings: ApiSettings
    certificate: LiveCertificate | None
    tracing: Tracing = OFF


def prepare(settings: ApiSettings, engine: Engine, now: datetime) -> Start:
    """What holds, of the environment and of the database, and whether the server may start so. Makes what a first start
    needs. ConfigurationInvalid: it may not, with what to do."""
    migrate(engine)

    def section() -> ServerConfiguration:
        with reading(engine) as session:
            return serving(settings, current_configuration(session).server)[0]

    found = section()
    files = _files_of(settings, section)
    if settings.bootstrap_dir is not None:
        for sentence in bootstrap(engine, settings.bootstrap_dir, settings.api_names, found, now):
            log.warning(sentence)
        found = found.model_copy(update=_as_fields(files()))
    with reading(engine) as session:
        check_binding(found, somebody_can_sign_in(session, now))
    certificate = LiveCertificate(files) if found.cert_file is not None else None
    values = {**dict(settings), "api_host": found.address, "api_port": found.port}
    # Which of them the environment set stays known: people are told where a value comes from.
    tracing = begin_tracing(settings.tracing, "api")
    return Start(ApiSettings.model_construct(settings.model_fields_set, **values), certificate, tracing)


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """What is loaded by now stays. Else Python goes through all of it again and again in search of garbage, for
        0.2 s each time, while every request waits (bench/README.md)."""
        await super().startup(sockets)
        garbage.keep_what_is_loaded()


async def serve(start: Start) -> None:
    """Serve until told to stop."""
    settings, certificate = start.settings, start.certificate
    config = uvicorn.Config(
        create_app(settings, start.tracing),
        host=settings.api_host,
        port=settings.api_port,
        http=Connection,
        h11_max_incomplete_event_size=LARGEST_HEAD,
        proxy_headers=bool(settings.api_trusted_proxies),
        forwarded_allow_ips=settings.api_trusted_proxies,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
        ssl_context_factory=(lambda *_: certificate.context) if certificate else None,
    )
    watching = asyncio.create_task(certificate.watch()) if certificate else None
    try:
        await _Server(config).serve()
    finally:
        if watching is not None:
            watching.cancel()


def main() -> int:
    """The program. 0: it was told to stop; 1: it could not start; 2: it must not start so."""
    settings = ApiSettings()
    _allow_open_files()
    sys.setswitchinterval(SWITCH_SECONDS)
    configure_logs(settings.log_level, settings.log_file)
    engine = open_engine(settings.database_url)
    try:
        start = prepare(settings, engine, datetime.now(UTC))
    except ConfigurationInvalid as refusal:
        print(refusal, file=sys.stderr)
        return REFUSED
    except (SQLAlchemyError, OSError) as problem:
        print(f"The API does not start: {' '.join(str(problem).split())[:500]}", file=sys.stderr)
        return FAILED
    asyncio.run(serve(start))
    engine.dispose()
    return 0


def _allow_open_files() -> None:
    """As many as the system lets us have: clients that connect and say nothing must not use them up."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _files_of(settings: ApiSettings, section: Callable[[], ServerConfiguration]) -> Callable[[], CertificateFiles]:
    def files() -> CertificateFiles:
        now = section()
        if now.cert_file is not None and now.key_file is not None:
            return CertificateFiles(Path(now.cert_file), Path(now.key_file))
        if settings.bootstrap_dir is not None:
            return certificate_of(settings.bootstrap_dir)
        raise ConfigurationInvalid("no certificate is set any more; plain HTTP takes a restart")

    return files


def _as_fields(files: CertificateFiles) -> dict[str, str]:
    return {"cert_file": str(files.cert_file), "key_file": str(files.key_file)}


if __name__ == "__main__":
    leave(main())
