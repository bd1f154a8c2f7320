"""The commands of docs/install.md, typed on an instance as they stand: by the server's API, and for an image."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import uvicorn

from api.app import create_app
from localcloud.stack.waiting import free_port
from perdure.certificates import make_self_signed
from perdure.settings import ApiSettings
from perdure.waiting import until
from tests.documents.book import block, filled, told
from tests.patience import PATIENCE
from tests.release.machine import Machine, machine

pytestmark = [pytest.mark.timeout(1200)]
UNINSTALL = told("docs/install.md", "/opt/perdure/current/bin/perdure-install --uninstall")
BOTH = {"HOST": "temporal.example"}


@contextmanager
def _server(release: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """The API with that release, asking everybody else for a sign-in: its address and its certificate."""
    pair = make_self_signed(["127.0.0.1"], folder / "pair", datetime.now(UTC))
    settings = ApiSettings(database_url=f"sqlite:///{folder}/perdure.db", release_dir=release, require_sign_in=True)
    port = free_port()
    config = uvicorn.Config(
        create_app(settings),
        port=port,
        ssl_certfile=pair.cert_file,
        ssl_keyfile=str(pair.key_file),
        log_config=None,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started, PATIENCE, 0.05, "the API serves")
        yield f"127.0.0.1:{port}", pair.cert_file.read_text()
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


def _installed(debian: Machine) -> bool:
    environment = debian.at("/etc/perdure/agent.env")
    return environment.exists() and "TEMPORAL_ADDRESS=temporal.example:7233\n" in environment.read_text()


def test_the_lines_for_an_instance(base: Path, place: Path, small: Path) -> None:
    with (
        machine(base, place / "machine", small, own_network=False) as debian,
        _server(small, place) as (server, certificate),
    ):
        with debian.at("/etc/ssl/certs/ca-certificates.crt").open("a") as trusted:
            trusted.write(certificate)
        pinned = told(
            "docs/install.md",
            'curl -fsS --retry 5 -o /run/perdure-install "$from/perdure-install" && echo "<checksum>  '
            '/run/perdure-install" | sha256sum -c - && sh /run/perdure-install --from "$from" --temporal "$temporal"',
        )
        given = f"from=https://{server}/install temporal=temporal.example:7233; "
        refused = debian.run("sh", "-c", given + filled(pinned, {"<checksum>": "0" * 64}))
        assert refused.status != 0 and "FAILED" in refused.said and not debian.at("/opt/perdure").exists()
        checksum = hashlib.sha256((small / "perdure-install").read_bytes()).hexdigest()
        debian.must("sh", "-c", given + filled(pinned, {"<checksum>": checksum}))
        assert _installed(debian)
        debian.must("sh", "-c", UNINSTALL)
        assert not _installed(debian)

        shorter = told("docs/install.md", "curl -fsS https://SERVER/install | sh -s -- --temporal HOST:7233")
        debian.must("sh", "-c", filled(shorter, {"SERVER": server, **BOTH}))
        assert _installed(debian)
        debian.must("sh", "-c", UNINSTALL)


def test_the_lines_for_an_image_of_your_own(base: Path, place: Path, small: Path) -> None:
    with machine(base, place / "machine", small) as debian:
        debian.at("/var/lib/ecs/data").mkdir(parents=True)
        debian.at("/aws").mkdir()
        debian.at("/aws/systemctl").write_text('#!/bin/sh\necho "$*" >>/aws/asked\n')
        debian.at("/aws/systemctl").chmod(0o755)
        lines = filled(
            "\n".join(block("docs/install.md", "sh perdure-install --from")), {"/path/to/release": "/release", **BOTH}
        )
        install, stop, _ = lines.splitlines()
        debian.must("sh", "-c", f"cd /release && {install}")
        assert _installed(debian)
        debian.must("sh", "-c", f"PATH=/aws:$PATH; {stop}")
        assert debian.at("/aws/asked").read_text() == "disable --now ecs\n"
        assert not debian.at("/var/lib/ecs/data").exists()
