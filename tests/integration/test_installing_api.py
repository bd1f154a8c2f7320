"""The server gives instances their installer and the files that it fetches, and nothing else of its folder."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.app import create_app
from perdure.settings import ApiSettings
from tests.integration.asking import Asker, asking
from tests.patience import PATIENCE

NAMES = ("/install", "/api/v1/scripts/install-pagent")
ARCHIVE = "perdure-worker-0.1.0-0123456789ab-x86_64.tar.gz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "release"
    made.mkdir()
    shutil.copy(Path(__file__).parents[2] / "deploy/worker/perdure-install", made / "perdure-install")
    (made / ARCHIVE).write_bytes(bytes(range(256)) * 500)
    (made / "secret.pem").write_text("not for anybody")
    return made


def _settings(tmp_path: Path, **more: object) -> ApiSettings:
    return ApiSettings(database_url=f"sqlite:///{tmp_path}/records.db", **more)  # type: ignore[arg-type]


@pytest.fixture
def server(tmp_path: Path, folder: Path) -> Iterator[Asker]:
    """It asks everybody else for a sign-in."""
    settings = _settings(tmp_path, release_dir=folder, require_sign_in=True, instances_temporal="10.0.0.7:7233")
    with asking(create_app(settings), "http://localhost:8080") as asker:
        yield asker


@pytest.mark.parametrize("name", NAMES)
def test_the_installer_knows_where_it_came_from(name: str, server: Asker) -> None:
    answer = server.get(name)
    assert answer.status_code == 200
    first, second, third = answer.text.splitlines()[:3]
    assert (first, third[:2]) == ("#!/bin/sh", "# ")
    assert second == "set -- --from 'http://localhost:8080/install' --temporal '10.0.0.7:7233' \"$@\""
    done = subprocess.run(
        ["sh", "-s", "--", "--help"], input=answer.text, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0 and "--uninstall" in done.stdout


def test_files_of_the_release_byte_for_byte(server: Asker, folder: Path) -> None:
    for name in ("perdure-install", ARCHIVE):
        answer = server.get(f"/install/{name}")
        assert (answer.status_code, answer.content) == (200, (folder / name).read_bytes())


@pytest.mark.parametrize(
    "name", ["secret.pem", "..%2frecords.db", "perdure-worker-..%2F..%2Frecords.db.tar.gz", "MANIFEST"]
)
def test_and_nothing_else(name: str, server: Asker) -> None:
    answer = server.get(f"/install/{name}")
    page = answer.headers["content-type"].startswith("text/html")  # the console's, for what is no route
    assert answer.status_code in {401, 404, 422} or page
    assert "not for anybody" not in answer.text and "SQLite" not in answer.text


def test_a_server_without_a_release_says_so(tmp_path: Path) -> None:
    with asking(create_app(_settings(tmp_path)), "http://localhost:8080") as asker:
        for name in NAMES:
            answer = asker.get(name)
            assert answer.status_code == 404 and "PERDURE_RELEASE_DIR" in answer.json()["error"]["message"]
