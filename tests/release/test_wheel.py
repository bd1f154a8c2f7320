"""Wheel and source archive: whole, the same by either way, and at work where there is no clone.

The dependencies are those of this environment; that they come from requirements files alone is proved by the server's
image (tests/e2e/test_compose.py) and the release for instances.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.documents.book import told

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.matrix]

_AT_WORK = """
import os, pathlib, sys
from datetime import UTC, datetime
import api.__main__, perdure, worker_agent.__main__, activities.__main__, localcloud.cli
from perdure.image.pages.prints import compiled
from perdure.records.schema.database import open_engine
from perdure.settings import ApiSettings
here = sys.argv[1]
for module in (api, perdure, worker_agent, activities, localcloud):
    assert module.__file__.startswith(here), module.__file__
settings = ApiSettings()
api.__main__.prepare(settings, open_engine(settings.database_url), datetime.now(UTC))
assert '<div id="console">' in (pathlib.Path(api.__file__).parent / "static/index.html").read_text()
assert compiled() is not None, "the compiled loop is there"
runtime = pathlib.Path(worker_agent.__file__).parent / "runtime/perdure-runtime"
assert os.access(runtime, os.X_OK), "it can be run"
"""


def _run(*argv: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [*map(str, argv)], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{argv}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def _wheel(source: Path, target: Path) -> Path:
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", target, cwd=source)
    [made] = target.iterdir()
    return made


def _files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_what_is_released_works_without_a_clone(release: Path, place: Path) -> None:
    [wheel], [source] = release.glob("perdure-[0-9]*.whl"), release.glob("perdure-[0-9]*.tar.gz")
    signed = {line.split()[1] for line in (release / "MANIFEST").read_text().splitlines()}
    assert {wheel.name, source.name} <= signed
    with tarfile.open(source) as archive:
        archive.extractall(place)  # Debian 12's Python (3.11.2) knows no filter yet
    unpacked = place / source.name.removesuffix(".tar.gz")
    for name in (
        "docker-compose.yml",
        "deploy/server/first-boot.sh",
        "requirements-server.txt",
        "api/static/index.html",
    ):
        assert (unpacked / name).exists(), "the server stack is made of the sources, without npm"
    assert _files(_wheel(unpacked, place / "again")) == _files(wheel), "the sources make the same wheel"

    target = place / "target"
    install = told("docs/account.md", "pip install 'perdure-0.1.0-py3-none-any.whl[account]'")
    alone = {"PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_TARGET": str(target), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    _run("sh", "-c", install, cwd=wheel.parent, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}", **alone)
    outside = {"PYTHONPATH": str(target), "PERDURE_DATABASE_URL": f"sqlite:///{place}/perdure.db"}
    _run(sys.executable, "-P", "-c", _AT_WORK, target, cwd=place, **outside)
    said = _run(target / "bin/perdure", "--help", cwd=place, COLUMNS="120", **outside)
    assert {"jobs", "doctor", "assess", "preflight", "database"} <= set(said.split())
