"""`perdure local …`: jobs of a stack, from their submission to their files."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from localcloud.cli.options import ANY_STACK, Base, Stack, client_of, progress
from localcloud.stack.stack import DEFAULT_BASE, meant_place
from perdure.domain.errors import ConfigurationInvalid

JOB_FAILED = 1
JobId = Annotated[str, typer.Argument(metavar="ID", help="A Batch job id.")]


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
    with closing(client_of(stack, base)) as client:
        print(client.submit(request))


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
    with closing(client_of(stack, base)) as client:
        client.reclaim(request, progress.print)


def checkpoint(
    job: Annotated[str, typer.Option(metavar="ID", help="The job.")],
    stack: Stack = ANY_STACK,
    base: Base = DEFAULT_BASE,
) -> None:
    """Take a checkpoint now; prints its number once it is committed."""
    with closing(client_of(stack, base)) as client:
        print(client.checkpoint(job))


def wait(
    job_id: JobId,
    timeout: Annotated[float | None, typer.Option(metavar="S", min=0, help="Give up after so many seconds.")] = None,
    running: Annotated[bool, typer.Option("--running", help="Only until it runs.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    stack: Stack = ANY_STACK,
    base: Base = DEFAULT_BASE,
) -> None:
    """Wait for a job's end and say how it went. Exit code 1 when it failed, 4 when time ran out."""
    with closing(client_of(stack, base)) as client:
        if running:
            status = client.wait_until_it_runs(job_id, timeout, progress.print)
            raise typer.Exit(1 if status == "FAILED" else 0)
        found = client.wait(job_id, timeout, progress.print)
    if as_json:
        print(json.dumps(found))
    else:
        out = Console(highlight=False, markup=False, soft_wrap=True)
        for key in ("status", "exit_code", "attempts", "protections", "checkpoints", "zones"):
            value = found[key]
            shown = " → ".join(map(str, value)) if isinstance(value, list) else value
            out.print(f"{key.replace('_', ' '):>12}  {'unknown' if value is None else shown}")
        for outage in found["outages"] or []:
            out.print(f"{'outage':>12}  {outage['seconds']} s")
    if found["status"] == "FAILED":
        raise typer.Exit(JOB_FAILED)


def logs(job_id: JobId, stack: Stack = ANY_STACK, base: Base = DEFAULT_BASE) -> None:
    """The job's stdout and stderr, each byte once over all attempts."""
    from localcloud.stack.job_files import copy_output

    with closing(client_of(stack, base)) as client:
        copy_output(client, meant_place(stack, base), job_id, sys.stdout.buffer, sys.stderr.buffer)


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
    with closing(client_of(stack, base)) as client:
        for remark in copy_file(client, meant_place(stack, base), job_id, path, destination):
            progress.print(remark, markup=False)


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
