"""`perdure checkpoints`: what was committed of a job, as the server knows it; and what lies in a store, read there.

The server's part needs the server alone. The store's part (`--stored`, `show`, `verify`, `export`, `delete`) reads the
store from this machine: with its AWS credentials, or where the shared directory is mounted.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from perdure.cli.server import Server, find_server, token_of_environment
from perdure.cli.tables import AsJson, long, show_fields, show_json, show_table, size, when
from perdure.domain.configuration import StoreConfiguration
from perdure.domain.errors import CheckpointFailed, ConfigurationInvalid, ImageInvalid
from perdure.settings import STORE_KEY

if TYPE_CHECKING:
    from perdure.stores.stored_checkpoints import StoredCheckpoints
    from perdure.stores.stored_manifest import StoredManifest

app = typer.Typer(help="Checkpoints of a job: list, take, and look after those in a store.", no_args_is_help=True)
JobId = Annotated[str, typer.Argument(metavar="JOB", help="AWS Batch's job id.")]
Number = Annotated[int, typer.Argument(min=1, help="The checkpoint's number.")]
Store = Annotated[
    str,
    typer.Option(
        "--store", help="`s3://BUCKET/PREFIX` or a directory; else the one that the server is configured with."
    ),
]
KeyFile = Annotated[
    Path | None, typer.Option("--key-file", help=f"The key that seals the store's manifests; if any: {STORE_KEY}.")
]
_EVERYTHING = 1 << 62


@app.command("list")
def list_(
    job_id: JobId,
    server: Server = "",
    stored: Annotated[bool, typer.Option("--stored", help="What lies in the store now, with its sizes.")] = False,
    store: Store = "",
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """List every checkpoint that was ever committed of a job; or those that lie in its store."""
    if stored or store:
        return _list_stored(job_id, server, store, key_file, as_json)
    found = find_server(server, token_of_environment()).get(_path(job_id))
    if as_json:
        return show_json(found)
    show_table(
        [
            *(">number", "kind", ">epoch", "frozen (UTC)", ">stood still", ">holds", ">wrote", ">shares"),
            *(">a final one", "can be restored", "what took longest"),
        ],
        (
            (
                *(one["number"], one["kind"], one["epoch"], when(one["frozen_at"]), long(one["phases"].get("frozen"))),
                *(size(one.get(name)) for name in ("holds_bytes", "written_bytes", "shares_bytes")),
                *(_budget(one.get("budget")), "yes" if one["offered"] else "no", _longest(one["phases"])),
            )
            for one in found
        ),
        "No checkpoint was committed yet.",
    )


def _longest(phases: dict[str, float]) -> str:
    """The three steps that took longest; --json has all."""
    steps = sorted(((seconds, name) for name, seconds in phases.items() if name != "frozen"), reverse=True)
    return ", ".join(f"{name} {seconds:.2f} s" for seconds, name in steps[:3])


@app.command("take")
def take(job_id: JobId, server: Server = "", as_json: AsJson = False) -> None:
    """Take a checkpoint of a running job now, and wait for it."""
    taken = find_server(server, token_of_environment()).ask("POST", _path(job_id), limit_seconds=200).json()
    if as_json:
        return show_json(taken)
    print(f"checkpoint {taken['number']} is committed")


@app.command("show")
def show(
    job_id: JobId,
    number: Number,
    server: Server = "",
    store: Store = "",
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what one checkpoint in a store consists of."""
    with _opened(job_id, server, store, key_file) as found:
        facts = _facts(found.open(number))
    if as_json:
        return show_json(facts)
    sizes = {"holds", "wrote", "shares"}
    show_fields((name, size(value) if name in sizes else value) for name, value in facts.items())


@app.command("verify")
def verify(
    job_id: JobId,
    numbers: Annotated[list[int] | None, typer.Argument(metavar="[NUMBER...]", help="These; else all of them.")] = None,
    server: Server = "",
    store: Store = "",
    key_file: KeyFile = None,
) -> None:
    """Read every byte that a restore would read, and check it. Exit code 1 if anything is wrong."""
    wrong = 0
    with _opened(job_id, server, store, key_file) as found:
        for number in numbers or found.numbers():
            try:
                held = found.verify(number).sizes.holds
            except ImageInvalid as problem:
                wrong += 1
                print(f"checkpoint {number}: {problem}", file=sys.stderr)
            else:
                print(f"checkpoint {number}: sound, {size(held)}")
    if wrong:
        raise CheckpointFailed(f"{wrong} of the job's checkpoints cannot be restored")


@app.command("export")
def export(
    job_id: JobId,
    number: Number,
    folder: Annotated[Path, typer.Argument(help="A new folder for it.")],
    server: Server = "",
    store: Store = "",
    key_file: KeyFile = None,
) -> None:
    """Copy a checkpoint out of a store: CRIU's images, the job's files, its output. Needs root: files keep owners. It
    holds the job's memory, and so its secrets."""
    if os.geteuid() != 0:
        raise ConfigurationInvalid("export needs root: the job's files keep their owners and devices")
    if folder.exists():
        raise ConfigurationInvalid(f"{folder} exists already; name a new folder")
    folder.mkdir(mode=0o700, parents=True)
    with _opened(job_id, server, store, key_file) as found:
        found.fetch(number, folder, folder / str(number), limit_bytes=_EVERYTHING, urgent=False)
    print(f"{folder / str(number)} and {folder / 'log'}")


@app.command("delete")
def delete(
    job_id: JobId,
    numbers: Annotated[list[int], typer.Argument(metavar="NUMBER...", help="These.")],
    server: Server = "",
    store: Store = "",
    key_file: KeyFile = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete checkpoints from a store, with what only they need. A running job goes on, and may have nothing to go back
    to."""
    words = ", ".join(map(str, numbers))
    if not yes and not typer.confirm(f"Delete checkpoint {words} of {job_id} for ever?"):
        raise typer.Abort
    with _opened(job_id, server, store, key_file) as found:
        missing = [number for number in numbers if number not in found.numbers()]
        if missing:
            raise ConfigurationInvalid(f"there is no checkpoint {missing[0]} of {job_id} in the store")
        for number in numbers:
            found.delete(number)
    print(f"checkpoint {words} is deleted")


def _budget(budget: dict[str, Any] | None) -> str:
    return f"{budget['seconds']:.0f} s {budget['colour']}" if budget else ""


def _list_stored(job_id: str, server: str, store: str, key_file: Path | None, as_json: bool) -> None:
    rows: list[dict[str, Any]] = []
    with _opened(job_id, server, store, key_file) as found:
        for number in found.numbers():
            try:
                rows.append(_facts(found.open(number)))
            except ImageInvalid as problem:
                rows.append({"number": number, "problem": str(problem)})
    if as_json:
        return show_json(rows)
    show_table(
        [">number", "kind", ">epoch", "frozen (UTC)", ">holds", ">wrote", ">shares", "problem"],
        (
            (
                *(row["number"], row.get("kind"), row.get("epoch"), when(row.get("frozen at"))),
                *(size(row.get(name)) for name in ("holds", "wrote", "shares")),
                row.get("problem", ""),
            )
            for row in rows
        ),
        "The store has no checkpoint of this job.",
    )


def _facts(stored: StoredManifest) -> dict[str, Any]:
    checkpoint = stored.checkpoint
    return {
        "job": checkpoint.job_id,
        "number": checkpoint.number,
        "kind": checkpoint.kind.value,
        "epoch": checkpoint.epoch,
        "attempt": checkpoint.attempt,
        "frozen at": checkpoint.frozen_at.isoformat(),
        "on": f"{checkpoint.instance_id} {checkpoint.zone}".strip(),
        "holds": stored.sizes.holds,
        "wrote": stored.sizes.wrote,
        "shares": stored.sizes.shares,
        "files": len(stored.entries),
        "chunks": len(stored.chunks),
        "packs": len(stored.packs),
        "processes": ", ".join(checkpoint.processes),
        "image": checkpoint.image.name if checkpoint.image else "",
        "criu": checkpoint.criu_version,
        "runc": checkpoint.runc_version,
        "kernel": checkpoint.kernel,
    }


@contextlib.contextmanager
def _opened(job_id: str, server: str, store: str, key_file: Path | None) -> Iterator[StoredCheckpoints]:
    """The job's checkpoints in the store that is meant."""
    from perdure.stores.opening import open_store, read_key  # what `list` alone need not load
    from perdure.stores.stored_checkpoints import StoredCheckpoints

    section = _section(store, server).model_copy(update={"sealed": True} if key_file else {})
    opened = open_store(section)
    try:
        yield StoredCheckpoints(opened, job_id, key=read_key(section, key_file or STORE_KEY))
    finally:
        opened.close()


def _section(store: str, server: str) -> StoreConfiguration:
    if store.startswith("s3://"):
        bucket, _, prefix = store.removeprefix("s3://").partition("/")
        prefix = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
        return StoreConfiguration(kind="s3", bucket=bucket, prefix=prefix)
    if store:
        return StoreConfiguration(kind="directory", directory=str(Path(store).resolve()))
    found = find_server(server, token_of_environment()).get("/api/v1/configuration")["store"]
    section = StoreConfiguration.model_validate(found)
    if section.kind == "none":
        raise ConfigurationInvalid("the server has no store (store.kind is none); name one with --store")
    return section


def _path(job_id: str) -> str:
    return f"/api/v1/jobs/{quote(job_id, safe='')}/checkpoints"
