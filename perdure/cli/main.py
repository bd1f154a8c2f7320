"""The `perdure` command: loads what installed packages add to it, and turns every error into one sentence and a code.

0 ok · 1 the job failed, or Perdure did · 2 usage · 3 unknown id · 4 time-out · 5 no stack
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import EntryPoint, entry_points, version
from typing import Annotated

import typer

from perdure.domain.errors import (
    ConfigurationInvalid,
    PerdureError,
    StackMissing,
    UnknownJob,
    UnknownNode,
    UnknownToken,
    UnknownVolume,
)
from perdure.leaving import leave

COMMANDS = "perdure.commands"
"""Entry-point group. A Typer app becomes a group of commands, a function one command, by the entry point's name."""

FAILED, USAGE, UNKNOWN_ID, TIME_OUT, NO_STACK, INTERRUPTED = 1, 2, 3, 4, 5, 130

_CODES: list[tuple[type[Exception], int]] = [
    (ConfigurationInvalid, USAGE),
    (UnknownJob, UNKNOWN_ID),
    (UnknownNode, UNKNOWN_ID),
    (UnknownToken, UNKNOWN_ID),
    (UnknownVolume, UNKNOWN_ID),
    (TimeoutError, TIME_OUT),
    (StackMissing, NO_STACK),
    (PerdureError, FAILED),
]
_OURS = {"perdure", "workflows", "activities", "worker_agent", "api", "localcloud"}
_WHOLE = "install Perdure's wheel with [local]"


def build(wanted: str | None = None) -> typer.Typer:
    """The whole command, with everything that is installed; only the part `wanted` when there is one of that name.

    The parts are loaded to be added, and each command line should pay for its own part alone.
    """
    app = typer.Typer(
        help="AWS Batch jobs that outlive the Spot instances they run on.",
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    parts = entry_points(group=COMMANDS)
    for entry in [part for part in parts if part.name == wanted] or parts:
        _add(app, entry)
    return app


def main() -> None:
    """Entry point of the `perdure` script. Never a traceback, unless PERDURE_DEBUG is set."""
    leave(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; its exit code. What went wrong is one sentence on stderr."""
    wanted = next((word for word in arguments if not word.startswith("-")), None)
    try:
        # click's own handling is off so that all ways out meet here.
        result = typer.main.get_command(build(wanted))(arguments, prog_name="perdure", standalone_mode=False)
    except BrokenPipeError:
        return 0  # whoever read our output had enough of it
    except Exception as problem:
        if os.environ.get("PERDURE_DEBUG"):
            raise
        return _explain(problem)
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        _flush()
    return result if isinstance(result, int) else 0


def _flush() -> None:
    """Flush stdout now: what nobody reads any more must not become an error at the interpreter's exit."""
    try:
        if sys.stdout is not None:  # Closed before we began (`>&-`).
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_code(problem: Exception) -> int:
    """The exit code that stands for an error."""
    return next((code for kind, code in _CODES if isinstance(problem, kind)), FAILED)


def _explain(problem: Exception) -> int:
    if isinstance(problem, typer.Exit):
        return int(problem.exit_code)
    if isinstance(problem, typer.Abort):
        return INTERRUPTED
    usage = getattr(problem, "format_message", None)
    if callable(usage):  # one of click's, which knows its command
        context = getattr(problem, "ctx", None)
        path = context.command_path if context else "perdure"
        print(f"perdure: {' '.join(usage().split()).rstrip('.')}; `{path} --help` says more", file=sys.stderr)
        return USAGE
    if isinstance(problem, ModuleNotFoundError) and (problem.name or "").partition(".")[0] not in _OURS:
        problem = PerdureError(f"this command is not wholly installed: {problem}; {_WHOLE}")
    words = " ".join(str(problem).split()) or "no message"
    known = any(isinstance(problem, kind) for kind, _ in _CODES)
    print(f"perdure: {words if known else f'{type(problem).__name__}: {words}'}", file=sys.stderr)
    return exit_code(problem)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"perdure {version('perdure')}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    pass


def _add(app: typer.Typer, entry: EntryPoint) -> None:
    try:
        command = entry.load()
    except (ImportError, AttributeError) as problem:
        # An extra that is not installed takes away its own commands only, and they say so.
        reason = f"`perdure {entry.name}` is not available: {problem}; {_WHOLE}"

        def unavailable(_: typer.Context) -> None:
            raise PerdureError(reason)

        context = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
        app.command(entry.name, help="(not installed)", context_settings=context)(unavailable)
        return
    if isinstance(command, typer.Typer):
        app.add_typer(command, name=entry.name)
    else:
        app.command(entry.name)(command)
