"""`perdure local …`: a stack on this machine, and jobs on it. Progress on stderr, what a program reads on stdout."""

from __future__ import annotations

import json
import signal
from contextlib import closing
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from localcloud.cli import faults, images, jobs
from localcloud.cli.options import ANY_STACK, Base, NamedStack, Stack, client_of, progress
from localcloud.stack.stack import DEFAULT_BASE, DEFAULT_STACK, StackPlace, meant_place, running_stacks
from perdure.domain.errors import ConfigurationInvalid

app = typer.Typer(help="A whole AWS on this machine, and jobs that outlive its reclaims.")
app.add_typer(images.app, name="image")
app.add_typer(faults.app, name="fault")


class ContainerEngine(StrEnum):
    """The choices of `up --engine`."""

    RUNC = "runc"
    DOCKER = "docker"


@app.command()
def up(
    detach: Annotated[bool, typer.Option("--detach", help="Return once it serves.")] = False,
    engine: Annotated[
        ContainerEngine, typer.Option(help="What runs the containers: runc alone, or a dockerd on each node.")
    ] = ContainerEngine.RUNC,
    temporal_address: Annotated[
        str | None, typer.Option(envvar="TEMPORAL_ADDRESS", hidden=True, help="Use this server instead of our own.")
    ] = None,
    temporal_namespace: Annotated[str, typer.Option(envvar="TEMPORAL_NAMESPACE", hidden=True)] = "default",
    stack: NamedStack = DEFAULT_STACK,
    base: Base = DEFAULT_BASE,
) -> None:
    """Start a stack: Temporal, AWS, the product's servers, a node in each zone."""
    from localcloud.stack.control import start_stack

    place = StackPlace(stack, base)
    with progress.status(f"starting stack {stack}"):
        state, supervisor = start_stack(
            place,
            temporal_address,
            temporal_namespace,
            lambda line: progress.print(f"[green]✓[/] {line}"),
            engine.value,
        )
    if supervisor is None:
        progress.print(f"stack {stack} is running already")
    progress.print(f"Console {state.api_url}\nAPI {state.api_url}/docs")
    progress.print(f"Temporal {state.temporal_ui_url or '(your own)'}\nAWS {state.aws_endpoint_url}")
    if supervisor is None or detach:
        return
    progress.print("Ctrl-C stops it.")
    signal.signal(signal.SIGTERM, lambda *_: supervisor.terminate())
    try:
        status = supervisor.wait()
    except KeyboardInterrupt:
        with progress.status("stopping"):
            supervisor.terminate()
            status = supervisor.wait()
    raise typer.Exit(1 if status else 0)


@app.command()
def down(stack: NamedStack = DEFAULT_STACK, base: Base = DEFAULT_BASE) -> None:
    """Stop a stack and remove everything of it but its logs."""
    from localcloud.stack.control import stop_stack

    with progress.status(f"stopping stack {stack}"):
        stop_stack(StackPlace(stack, base))
    progress.print(f"stack {stack} is gone")
    for other in running_stacks(base):
        progress.print(f"stack {other} runs on; `perdure local down --stack {other}` stops it")


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    stack: Stack = ANY_STACK,
    base: Base = DEFAULT_BASE,
) -> None:
    """Where a stack serves, its nodes and its jobs."""
    with closing(client_of(stack, base)) as client:
        found = client.status()
    if as_json:
        print(json.dumps(found))
        return
    out = Console(highlight=False, soft_wrap=True)
    out.print(f"{'engine':>13}  {found['engine']}")
    for name in ("api_url", "temporal_ui_url", "aws_endpoint_url", "region"):
        out.print(f"{name.removesuffix('_url'):>13}  {found[name]}")
    out.print(f"{'queues':>13}  {' '.join(found['queues'])}")
    for node in found["nodes"]:
        out.print(f"{'node':>13}  {node['id']}  {node['zone']}  {node['state']}")
    for job in found["jobs"]:
        out.print(f"{'job':>13}  {job['id']}  {job['status']:<10}  {job['name']}", markup=False)


for command in (jobs.submit, jobs.reclaim, jobs.checkpoint, jobs.wait, jobs.logs, jobs.cp):
    app.command()(command)


@app.command("sign-in")
def sign_in(
    user: Annotated[str, typer.Option(help="Who may sign in.")] = "admin",
    password: Annotated[str, typer.Option(help="Their password; one is made up if none is given.")] = "",
    group: Annotated[list[str] | None, typer.Option(help="admin or viewer; may be repeated.")] = None,
    stack: Stack = ANY_STACK,
    base: Base = DEFAULT_BASE,
) -> None:
    """Have the stack's server ask for sign-in, with a Cognito user pool of this stack; prints user and password."""
    from localcloud.stack.sign_in import GROUPS, made_up_password, set_up

    groups = group or ["admin"]
    if unknown := set(groups) - set(GROUPS):
        raise ConfigurationInvalid(f"there is no group {min(unknown)!r}; there are {' and '.join(GROUPS)}")
    chosen = password or made_up_password()
    with closing(client_of(stack, base)) as client, client.aws_errors():
        where = set_up(client, meant_place(stack, base), user, chosen, groups)
    progress.print(f"Sign in at {where}")
    print(f"{user}\n{chosen}")
