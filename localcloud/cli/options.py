"""What the commands of `perdure local` share: their options, the stack that is meant, where progress is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from localcloud.stack.stack import meant_place

if TYPE_CHECKING:
    from localcloud.stack.client import StackClient

progress = Console(stderr=True, highlight=False)

ANY_STACK = ""
"""The only one that runs (stack.meant_place)."""

NamedStack = Annotated[str, typer.Option("--stack", envvar="PERDURE_STACK", help="Which stack, by name.")]
Stack = Annotated[
    str,
    typer.Option(
        "--stack", envvar="PERDURE_STACK", show_default="the only one that runs", help="Which running stack, by name."
    ),
]
Base = Annotated[
    Path, typer.Option("--base", envvar="PERDURE_LOCAL_DIR", hidden=True, help="The folder that holds all stacks.")
]


def client_of(stack: str, base: Path) -> StackClient:
    """Speaks with the stack that is meant; to be closed. Raises StackMissing."""
    from localcloud.stack.client import StackClient

    return StackClient.of(meant_place(stack, base))
