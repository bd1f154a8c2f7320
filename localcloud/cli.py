"""`perdure local …`: a stack on this machine, and jobs on it. Progress on stderr, what a program reads on stdout."""

from __future__ import annotations

import json
import signal
import sys
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from localcloud.cli_faults import app as faults
from localcloud.stack.stack import DEFAULT_BASE, DEFAULT_STACK, StackPlace, meant_place, running_stacks
from perdure.domain.errors import ConfigurationInvalid

if TYPE_CHECKING:
    from localcloud.stack.client import StackClient

app = typer.Typer(help="A whole AWS on this machine, and jobs that outlive its reclaims.")
images = typer.Typer(help="Container images of Debian packages, for jobs of all stacks.")
app.add_typer(images, name="image")
app.add_typer(faults, name="fault")
progress = Console(stderr=True, highlight=False)

JOB_FAILED = 1
ANY_STACK = ""
"""The only one that runs (stack.meant_place)."""


class ContainerEngine(StrEnum):
    """The choices of `up --engine`."""

    RUNC = "runc"
    DOCKER = "docker"


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
JobId = Annotated[str, typer.Argument(metavar="ID", help="A Batch job id.")]


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
    with closing(_client(stack, base)) as client:
        found = client.status()
    if as_json:
        print(json.dumps(found))
        return
    out = Console(highlight=False)
    out.print(f"{'engine':>13}  {found['engine']}")
    for name in ("api_url", "temporal_ui_url", "aws_endpoint_url", "region"):
        out.print(f"{name.removesuffix('_url'):>13}  {found[name]}")
    out.print(f"{'queues':>13}  {' '.join(found['queues'])}")
    for node in found["nodes"]:
        out.print(f"{'node':>13}  {node['id']}  {node['zone']}  {node['state']}")
    for job in found["jobs"]:
        out.print(f"{'job':>13}  {job['id']}  {job['status']:<10}  {job['name']}", markup=False)


@app.command()
def submit(
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="What to run.")],
    name: Annotated[str, typer.Option(help="The job's name.")] = "job",
    vcpus: Annotated[int, typer.Option(min=1)] = 1,
    memory: Annotated[int, typer.Option(metavar="MIB", min=4)] = 2048,
    queue: Annotated[str | None, typer.Option(help="Job queue; the stack's first one if not given.")] = None,
    attempts: Annotated[int, typer.Option(min=1, max=10, help="Runs in all, as Batch counts them.")] = 10,
    host_rules: Annotated[
        bool, typer.Option("--host-rules", help="Retry `Host EC2*` alone, as Nextflow's jobs do, and no exit code.")
    ] = False,
    interval: Annotated[
        str | None, typer.Option(metavar="D", help="Between checkpoints, such as 15m or 30s; 0 for none.")
    ] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="K=V", help="A variable; may be repeated.")] = None,
    mount: Annotated[
        list[str] | None, typer.Option(metavar="HOST:CONTAINER", help="A shared folder; may be repeated.")
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="An image made by `image build`; this machine's own root if not given."),
    ] = None,
    job_role: Annotated[
        str, typer.Option(metavar="ROLE", help="Credentials come from the task, and expire, as with a job role.")
    ] = "",
    stack: Stack = ANY_STACK,
    base: Base = DEFAULT_BASE,
) -> None:
    """Submit a Batch job; prints its id. Reclaims are retried, nothing else is."""
    from localcloud.stack.job_request import JobRequest, parse_mount, parse_variable

    environment = dict(parse_variable(text) for text in env or [])
    if interval is not None:
        environment["PERDURE_CHECKPOINT_INTERVAL"] = checked_interval(interval)
    request = JobRequest(
        command=command,
        name=name,
        vcpus=vcpus,
        memory_mib=memory,
        queue=queue,
        attempts=attempts,
        host_rules=host_rules,
        environment=environment,
        mounts=[parse_mount(text) for text in mount or []],
        job_role=job_role,
        **({"image": image} if image is not None else {}),
    )
    with closing(_client(stack, base)) as client:
        print(client.submit(request))


@app.command()
def reclaim(
    job: Annotated[str | None, typer.Option(metavar="ID", help="The node that runs this job.")] = None,
    node: Annotated[str | None, typer.Option(metavar="ID", help="This node.")] = None,
    to_zone: Annotated[str | None, typer.Option(metavar="Z", help="Leave capacity in this zone only.")] = None,
    notice: Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Seconds between notice and end.")] = 120,
    no_notice: Annotated[bool, typer.Option("--no-notice", help="Pull the plug.")] = False,
    rebalance: Annotated[bool, typer.Option("--rebalance", help="A rebalance recommendation first.")] = False,
    stack: Stack = ANY_STACK,
    base: Base = DEFAULT_BASE,
) -> None:
    """Take a node away, as AWS does with Spot instances; returns when it is gone."""
    if (job is None) == (node is None):
        raise ConfigurationInvalid("say either --job ID or --node ID")
    request: dict[str, object] = {"job_id": job} if job is not None else {"node_id": node}
    request |= {"notice_seconds": notice, "no_notice": no_notice, "rebalance": rebalance}
    if to_zone is not None:
        request["to_zone"] = to_zone
    with closing(_client(stack, base)) as client:
        client.reclaim(request, progress.print)


@app.command()
def checkpoint(
    job: Annotated[str, typer.Option(metavar="ID", help="The job.")],
    stack: Stack = ANY_STACK,
    base: Base = DEFAULT_BASE,
) -> None:
    """Take a checkpoint now; prints its number once it is committed."""
    with closing(_client(stack, base)) as client:
        print(client.checkpoint(job))


@app.command()
def wait(
    job_id: JobId,
    timeout: Annotated[float | None, typer.Option(metavar="S", min=0, help="Give up after so many seconds.")] = None,
    running: Annotated[bool, typer.Option("--running", help="Only until it runs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    stack: Stack = ANY_STACK,
    base: Base = DEFAULT_BASE,
) -> None:
    """Wait for a job's end and say how it went. Exit code 1 when it failed, 4 when time ran out."""
    with closing(_client(stack, base)) as client:
        if running:
            status = client.wait_until_it_runs(job_id, timeout, progress.print)
            raise typer.Exit(1 if status == "FAILED" else 0)
        found = client.wait(job_id, timeout, progress.print)
    if as_json:
        print(json.dumps(found))
    else:
        out = Console(highlight=False, markup=False)
        for key in ("status", "exit_code", "attempts", "protections", "checkpoints", "zones"):
            value = found[key]
            shown = " → ".join(map(str, value)) if isinstance(value, list) else value
            out.print(f"{key.replace('_', ' '):>12}  {'unknown' if value is None else shown}")
        for outage in found["outages"] or []:
            out.print(f"{'outage':>12}  {outage['seconds']} s")
    if found["status"] == "FAILED":
        raise typer.Exit(JOB_FAILED)


@app.command()
def logs(job_id: JobId, stack: Stack = ANY_STACK, base: Base = DEFAULT_BASE) -> None:
    """The job's stdout and stderr, each byte once over all attempts."""
    from localcloud.stack.job_files import copy_output

    with closing(_client(stack, base)) as client:
        copy_output(client, meant_place(stack, base), job_id, sys.stdout.buffer, sys.stderr.buffer)


@app.command()
def cp(
    source: Annotated[str, typer.Argument(metavar="ID:PATH", help="A job and a path inside its container.")],
    destination: Annotated[Path, typer.Argument(metavar="DEST")],
    stack: Stack = ANY_STACK,
    base: Base = DEFAULT_BASE,
) -> None:
    """Copy a file or folder that the job wrote, from its root layer or its volume."""
    from localcloud.stack.job_files import copy_file

    job_id, colon, path = source.partition(":")
    if not colon or not job_id:
        raise ConfigurationInvalid(f"{source!r} is not ID:PATH")
    with closing(_client(stack, base)) as client:
        for remark in copy_file(client, meant_place(stack, base), job_id, path, destination):
            progress.print(remark, markup=False)


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
    with closing(_client(stack, base)) as client, client.aws_errors():
        where = set_up(client, meant_place(stack, base), user, chosen, groups)
    progress.print(f"Sign in at {where}")
    print(f"{user}\n{chosen}")


@images.command("build")
def build_image(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What jobs call it.")],
    packages: Annotated[list[str], typer.Argument(metavar="PACKAGE...", help="Debian packages of this suite.")],
) -> None:
    """Make an image of Debian packages and what they depend on; at once when it was made before. Prints its name."""
    from localcloud.nodes.images.build import build_image as build
    from localcloud.nodes.images.catalogue import canonical
    from localcloud.stack.checks import require_root

    require_root()
    with progress.status(f"making image {name}"):
        build(name, packages, lambda line: progress.print(f"{name}: {line}", markup=False))
    print(canonical(name))


@images.command("list")
def list_images(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """The images that were made on this machine."""
    from localcloud.nodes.images.catalogue import Catalogue

    catalogue = Catalogue()
    found = {name: image for name in catalogue.names() if (image := catalogue.find(name))}
    if as_json:
        print(json.dumps([{"name": name, **image.model_dump()} for name, image in found.items()]))
        return
    out = Console(highlight=False, markup=False)
    for name, image in found.items():
        out.print(f"{name:<30}  {image.size_bytes >> 20:>5} MiB  {image.suite}  {' '.join(image.packages)}")


@images.command("rm")
def remove_images(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="As `image list` shows them.")],
) -> None:
    """Forget images by name; the files go with an image's last name. Not while a container uses it."""
    from localcloud.nodes.images.build import remove_image
    from localcloud.stack.checks import require_root

    require_root()
    for name in names:
        freed = remove_image(name)
        progress.print(f"{name} is gone" + (f", {freed >> 20} MiB are free again" if freed else ""), markup=False)


def checked_interval(text: str) -> str:
    """The interval as it was written, when it can be used. Raises ConfigurationInvalid."""
    from perdure.domain.configuration import MINIMUM_INTERVAL_SECONDS
    from perdure.domain.values import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError as problem:
        raise ConfigurationInvalid(f"--interval: {problem}") from None
    if 0 < seconds < MINIMUM_INTERVAL_SECONDS:
        raise ConfigurationInvalid(f"--interval {text} is shorter than {MINIMUM_INTERVAL_SECONDS:g}s")
    return text


def _client(stack: str, base: Path) -> StackClient:
    from localcloud.stack.client import StackClient

    return StackClient.of(meant_place(stack, base))
