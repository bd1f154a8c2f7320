"""A PostgreSQL server for tests: Debian's programs, a folder of its own, reached by a unix socket in it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg.sql import SQL, Identifier

from tests.patience import PATIENCE

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
USER = "postgres"
"""The server refuses to run as root."""


@dataclass
class Postgres:
    """A running server."""

    folder: Path
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_database(self, like: str = "template1") -> str:
        """URL of a new, empty database; or of a copy of the one of that name, to which nobody is connected."""
        name = f"perdure_{next(self._numbers)}"
        with psycopg.connect(f"host={self.folder} user={USER} dbname={USER}", autocommit=True) as connection:
            connection.execute(SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(like)))
        return self.url(name)

    def url(self, name: str) -> str:
        """Of the database of this name."""
        return f"postgresql+psycopg://{USER}@/{name}?host={self.folder}"


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """One server for all tests of this process: starting one takes seconds. Ask it for a database of your own."""
    yield _shared()


@functools.cache
def _shared() -> Postgres:
    stack = contextlib.ExitStack()
    server = stack.enter_context(_started())
    atexit.register(stack.close)
    return server


@contextlib.contextmanager
def _started() -> Iterator[Postgres]:
    """A server until the end of the block; then nothing of it is left."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-test-", dir="/var/tmp"))
    try:
        with server_in(folder, stop="immediate") as server:
            yield server
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def server_in(folder: Path, *, stop: str = "fast", more_options: str = "") -> Iterator[Postgres]:
    """A server until the end of the block, with its data in `folder`: what is there, else a new and empty one. Nothing
    of it survives a power loss. `stop`: `immediate` loses what was just written."""
    data = folder / "data"
    if not data.exists():
        shutil.chown(folder, USER)
        _as_postgres("initdb", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "-D", str(data))
    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off {more_options}"
    control = ("pg_ctl", "-D", str(data), "--wait", f"--timeout={PATIENCE:g}")
    _as_postgres(*control, "-o", options, "-l", str(folder / "log"), "start")
    try:
        yield Postgres(folder)
    finally:
        _as_postgres(*control, f"--mode={stop}", "stop")


def _as_postgres(program: str, *arguments: str) -> None:
    command = ["runuser", "-u", USER, "--", str(PROGRAMS / program), *arguments]
    # Output to a file: a server that goes on would hold a pipe open.
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(command, stdout=said, stderr=said, timeout=PATIENCE, cwd="/", check=False)
        said.seek(0)
        assert done.returncode == 0, f"{program}: {said.read().decode(errors='replace')}"
