"""`perdure doctor`: what keeps jobs from being protected, on this instance or, with --queue, in an account.

Exit code 0: nothing that matters · 1: jobs are not protected.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Annotated

import typer

from perdure.cli.boto import account_parts
from perdure.domain.errors import ConfigurationInvalid
from perdure.settings import CommandLineSettings

if TYPE_CHECKING:
    from perdure.account.findings import Finding

ON_AN_INSTANCE = "perdure.doctors"
"""Entry-point group: who looks at this machine. The agent brings it."""
_NOT_PROTECTED = 1


def doctor(
    queue: Annotated[str | None, typer.Option(help="Look at this job queue of the account instead.")] = None,
    region: Annotated[str | None, typer.Option(help="With --queue: the region; else AWS_REGION.")] = None,
    fix: Annotated[bool, typer.Option("--fix", help="With --queue: make the safe changes, and say which.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what keeps jobs from being protected, and the command that mends it.

    Without --queue it looks at this instance, changes nothing, and needs root. With --queue it looks at a job queue of
    your AWS account, by your own profile, and changes nothing either unless --fix is given.
    """
    if queue is None:
        if fix or region:
            raise ConfigurationInvalid("--fix and --region go with --queue NAME; an instance is mended by hand")
        _on_this_instance()(as_json)
    else:
        _in_the_account(queue, region, fix, as_json)


def _on_this_instance() -> Callable[[bool], None]:
    for entry in entry_points(group=ON_AN_INSTANCE):
        try:
            found: Callable[[bool], None] = entry.load()
        except ModuleNotFoundError:
            break  # The wheel alone, without what the agent needs.
        return found
    raise ConfigurationInvalid("the agent is not installed here: name a job queue with --queue")


def _in_the_account(queue: str, region: str | None, fix: bool, as_json: bool) -> None:
    with account_parts():
        from perdure.account.asking import Aws
        from perdure.account.findings import Severity
        from perdure.account.fixes import mend
        from perdure.account.picture import read_queue
        from perdure.account.table import CHECKS, examine, unseen
    aws = Aws(region or CommandLineSettings().aws_region)
    picture = read_queue(aws, queue)
    found = examine(picture)
    quiet = {name: unseen(picture, name) for name, several in found.items() if not several}
    findings = [one for several in found.values() for one in several]
    mended = mend(aws, findings) if fix else []
    if as_json:
        print(
            json.dumps(
                {
                    "queue": queue,
                    "region": aws.region,
                    "findings": [one.as_json() for one in findings],
                    "good": [name for name, missing in quiet.items() if not missing],
                    "unseen": {name: missing for name, missing in quiet.items() if missing},
                    "fixed": [{"check": one.check, "subject": one.subject, "result": said} for one, said in mended],
                }
            )
        )
    else:
        for name, several in found.items():
            if missing := quiet.get(name):
                print(f"unseen   {name}: {', '.join(missing)} had no answer")
            elif not several:
                print(f"ok       {name}: {CHECKS[name].holds}")
            for one in several:
                _tell(one)
        for one, said in mended:
            print(f"fixed    {one.check} {one.subject}: {said}")
        if any(one.safe for one in findings) and not fix:
            print("Some of this is safe to mend at once: the same command with --fix.")
    left = [one for one in findings if one not in [repaired for repaired, _ in mended]]
    if any(one.severity is Severity.ERROR for one in left):
        raise typer.Exit(_NOT_PROTECTED)


def _tell(one: Finding) -> None:
    print(f"{one.severity:8} {one.check}: {one.subject}: {one.what}")
    print(f"         why:  {one.why}\n         mend: {one.mend}")
