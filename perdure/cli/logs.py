"""`perdure logs`: the log bundle of a job or a node, to look at or to keep."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from perdure.cli.server import ApiServer, Server, find_server, token_of_environment
from perdure.cli.tables import AsJson, console, show_fields, show_json, size
from perdure.domain.errors import ConfigurationInvalid

_LIMIT_SECONDS = 120.0
"""A living node is asked, and a bundle may be large."""


def logs(
    job_id: Annotated[str, typer.Argument(metavar="[JOB]", help="AWS Batch's job id.")] = "",
    server: Server = "",
    node: Annotated[str, typer.Option("--node", help="Of this instance instead, and of all jobs on it.")] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Keep the bundle: a zip file.")] = None,
    file: Annotated[str, typer.Option("--file", "-f", help="Show the files whose names end so.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the logs of a job or node, show some, or download them all.

    Without --out or --file: the files that there are. For what the job itself printed: `--file output.log`.
    """
    if bool(job_id) == bool(node):
        raise ConfigurationInvalid("name a job, or a node with --node")
    asked = find_server(server, token_of_environment())
    kind, name = ("nodes", node) if node else ("jobs", job_id)
    path = f"/api/v1/{kind}/{quote(name, safe='')}/logs"
    if out is not None:
        return _download(asked, path, out)
    found = asked.ask("GET", path, {"format": "json"}, limit_seconds=_LIMIT_SECONDS).json()
    if as_json:
        return show_json(found)
    if not file:
        show_fields((size(one["size"]), one["name"]) for one in found["files"])
    shown = [one for one in found["files"] if file and one["name"].endswith(file) and one["text"] is not None]
    if file and not shown:
        raise ConfigurationInvalid(
            f"there is no text file {file[:80]!r} among the logs; without --file they are listed"
        )
    for one in shown:
        if len(shown) > 1:
            print(f"==> {one['name']} <==")
        sys.stdout.write(
            "".join(
                char if char.isprintable() or char in "\n\t" else "\N{REPLACEMENT CHARACTER}" for char in one["text"]
            )
        )
    if found["missing"] and not file:
        console().print(f"\nNot to be had:\n{found['missing']}".rstrip(), markup=False)
    return None


def _download(asked: ApiServer, path: str, out: Path) -> None:
    draft = out.with_name(f".{out.name}.part")
    try:
        with asked.stream("GET", path, limit_seconds=_LIMIT_SECONDS) as answer, draft.open("wb") as target:
            for chunk in answer.iter_bytes():
                target.write(chunk)
        draft.replace(out)
    except OSError as problem:
        raise ConfigurationInvalid(f"{out} cannot be written: {problem}") from problem
    finally:
        draft.unlink(missing_ok=True)
    print(f"{out}: {size(out.stat().st_size)}", file=sys.stderr)
