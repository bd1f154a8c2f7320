"""An instance gets the packages of the agent alone, and the server's image those of the server: what each imports is in
its extra."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

from scripts.bundle.contents import server_list
from tests.patience import PATIENCE

ROOT = Path(__file__).parents[2]
_USED_IF_THERE = ("greenlet", "googleapis-common-protos")
"""Packages that others import when they happen to be installed, or that share a folder with one that is (`google`)."""
_IMPORT_ALL = """
import importlib, json, pkgutil, sys
before = set(sys.modules)
importlib.import_module("perdure.cli.main")
programs = [importlib.import_module(name) for name in sys.argv[1:]]
names = [module.name for one in programs for module in pkgutil.walk_packages(one.__path__, f"{one.__name__}.")]
for name in names:
    importlib.import_module(name)
print(json.dumps([len(names), sorted({name.partition(".")[0] for name in set(sys.modules) - before})]))
"""


def _pinned(extra: str) -> set[str]:
    """The packages in requirements-EXTRA.txt."""
    text = (ROOT / f"requirements-{extra}.txt").read_text()
    return set(re.findall(r"^([a-z0-9._-]+)==", text, re.MULTILINE))


def _imported(*programs: str) -> set[str]:
    """The packages that every module of these programs imports."""
    argv = [sys.executable, "-c", _IMPORT_ALL, *programs]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    count, imported = json.loads(done.stdout)
    assert count > 50, "every module was imported"
    providers = packages_distributions()
    used = {name.lower().replace("_", "-") for module in imported for name in providers.get(module, [])}
    return used - {"perdure", *_USED_IF_THERE}


def test_the_agent_imports_its_own_packages_alone() -> None:
    used = _imported("worker_agent")
    assert {"temporalio", "pydantic", "blake3"} <= used
    assert used <= _pinned("agent"), (
        "instances would lack them: add them to the extra `agent`, then `make requirements`"
    )


def test_the_server_imports_its_own_packages_alone() -> None:
    used = _imported("api", "activities", "workflows")
    assert {"fastapi", "boto3", "blake3"} <= used
    assert used <= _pinned("server"), (
        "its image would lack them: add them to the extra `server`, then `make requirements`"
    )


def test_the_packages_of_the_server_stay_off_the_instances() -> None:
    of_the_server = {"fastapi", "starlette", "uvicorn", "alembic", "sqlalchemy", "sqlmodel", "psycopg", "cryptography"}
    assert of_the_server <= _pinned("server")
    assert of_the_server.isdisjoint(_pinned("agent"))
    assert {"moto", "pytest"}.isdisjoint(_pinned("agent"))


def test_the_servers_contents_are_listed() -> None:
    listed = [one["purl"] for one in json.loads(server_list())["components"]]
    packages = {purl.removeprefix("pkg:pypi/").partition("@")[0] for purl in listed if purl.startswith("pkg:pypi/")}
    assert _pinned("server") - packages == {"colorama", "tzdata"}, "these are for Windows"
    assert [purl for purl in listed if purl.startswith("pkg:npm/react-dom@")]
    assert not [purl for purl in listed if "vite" in purl], "what only builds the console is not in it"
