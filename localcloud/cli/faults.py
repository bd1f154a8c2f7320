"""`perdure local fault …`: how slow the stack's EBS is, and what goes wrong there."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from localcloud.aws.ebs_conditions import FaultKind
from localcloud.cli.options import ANY_STACK, Base, Stack, client_of
from localcloud.stack.stack import DEFAULT_BASE
from perdure.domain.errors import ConfigurationInvalid

app = typer.Typer(help="How slow EBS is, and what goes wrong there.", no_args_is_help=True)


@app.command()
def ebs(
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="fast, documented, or reported (docs/local-faults.md).")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="For all that is drawn; the same seed draws the same.")] = None,
    rate: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=NUMBER", help="One rate; may be repeated.")
    ] = None,
    stack: Stack = ANY_STACK,
    base: Base = DEFAULT_BASE,
) -> None:
    """Go by other rates from now on; shows those that hold."""
    request: dict[str, Any] = {"rates": dict(_parse_rate(text) for text in rate or [])}
    request |= {name: value for name, value in (("profile", profile), ("seed", seed)) if value is not None}
    _show(_call(stack, base, "POST", "/_local/ebs", request))


@app.command()
def add(
    kind: Annotated[FaultKind, typer.Argument(metavar="KIND", help=", ".join(FaultKind))],
    volume: Annotated[str, typer.Option(metavar="ID", help="Of this volume only.")] = "",
    action: Annotated[str, typer.Option(metavar="ACTION", help="throttle: of this action only.")] = "",
    times: Annotated[int, typer.Option(min=0, help="How often; 0: until cleared.")] = 1,
    chance: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of each time.")] = 1.0,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="stuck-…: for so long; until cleared, if not given.")
    ] = None,
    stack: Stack = ANY_STACK,
    base: Base = DEFAULT_BASE,
) -> None:
    """Have something go wrong; prints the fault's id."""
    fault = {
        "kind": kind.value,
        "volume_id": volume,
        "action": action,
        "times": times,
        "chance": chance,
        "seconds": seconds,
    }
    print(_call(stack, base, "POST", "/_local/faults", fault)["id"])


@app.command("list")
def list_faults(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    stack: Stack = ANY_STACK,
    base: Base = DEFAULT_BASE,
) -> None:
    """Rates, faults, and how many calls were made and throttled."""
    found = _call(stack, base, "GET", "/_local/ebs")
    if as_json:
        print(json.dumps(found))
    else:
        _show(found)


@app.command()
def clear(stack: Stack = ANY_STACK, base: Base = DEFAULT_BASE) -> None:
    """Nothing goes wrong any more, and what was stuck goes on. The rates stay."""
    _show(_call(stack, base, "POST", "/_local/faults/clear"))


def _show(found: dict[str, Any]) -> None:
    out = Console(highlight=False, markup=False, soft_wrap=True)
    out.print(f"{'profile':>22}  {found['profile']} (seed {found['seed']})")
    for name, value in found["rates"].items():
        out.print(f"{name:>22}  {value:g}")
    for fault in found["faults"]:
        where = fault["volume_id"] or fault["action"] or "anything"
        often = "until cleared" if not fault["times"] else f"{fault['struck']} of {fault['times']} times"
        out.print(f"{fault['id']:>22}  {fault['kind']} of {where}: {often}")
    for action, calls in sorted(found["calls"].items()):
        refused = found["throttled"].get(action, 0)
        out.print(f"{action:>22}  {calls} calls" + (f", {refused} throttled" if refused else ""))


def _parse_rate(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise ConfigurationInvalid(f"--set {text[:60]!r} is not NAME=NUMBER") from None


def _call(stack: str, base: Path, method: str, path: str, request: Any = None) -> dict[str, Any]:
    with closing(client_of(stack, base)) as client:
        return client.cloud(method, path, json=request)
