"""The demo from its first line to its verdict: stack up, input, references beside the jobs, comparison, stack down."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from localcloud.demo.display import Display
from localcloud.demo.inputs import check_programs, prepare_inputs
from localcloud.demo.jobs import MOST_RECLAIMS, DemoJob, demo_jobs
from localcloud.demo.journey import Journey
from localcloud.demo.references import Evidence, differences, run_reference
from localcloud.demo.stack_user import StackUser, Stopped
from localcloud.demo.verdict import Outcome, Verdict, judge
from localcloud.nodes.inside.configuration import EngineName
from localcloud.stack.stack import StackPlace, is_claimed
from perdure.domain.errors import StackError


@dataclass(frozen=True)
class Told:
    """A job's verdict, its page in the API at the end, its title."""

    verdict: Verdict
    page: dict[str, Any]
    title: str


def run_demo(
    place: StackPlace,
    keep: bool,
    console: Console,
    engine: EngineName = "runc",
    reclaims: int = MOST_RECLAIMS,
    store: str = "",
) -> list[Told]:
    """The whole demo on a stack of its own, which is gone afterwards unless `keep`; `reclaims` for each job. With a
    `store` (`s3`, or a directory) no job has a volume.

    Raises StackError, with the stack stopped, when it could not be brought to an end; so does Ctrl-C.
    """
    check_programs()
    if is_claimed(place):
        raise StackError(
            f"stack {place.name!r} is running already; stop it with `perdure local down --stack {place.name}` first"
        )
    stop = threading.Event()
    user = StackUser(place, stop, engine)
    display = Display(console)
    try:
        with display.busy("starting"):
            status = user.up(lambda line: display.tell("stack", line))
        if store:
            user.use_store(store)
            display.tell("demo", f"Checkpoints are kept in {store}; no job has a volume")
        temporal = status["temporal_ui_url"] or "(at your own server)"
        display.tell("demo", f"Console {status['api_url']}   watch both jobs move there")
        display.tell("demo", f"Temporal UI {temporal}   API {status['api_url']}/docs")
        told = _jobs(user, status, stop, display, reclaims)
    except BaseException:
        display.still()
        display.tell("stack", "stopping")
        try:
            user.down()
        except StackError as problem:  # what went wrong first is what the caller must hear
            display.tell("stack", str(problem))
        raise
    user.close()
    if not keep:
        display.tell("stack", "stopping")
        with display.busy("stopping"):
            user.down()
    return told


def _jobs(
    user: StackUser, status: dict[str, Any], stop: threading.Event, display: Display, reclaims: int
) -> list[Told]:
    """Prepare, run the references and the jobs at the same time, compare, judge."""
    inputs = user.folder / "inputs"
    prepare_inputs(inputs)
    jobs = demo_jobs(reclaims)
    zones = sorted({node["zone"] for node in status["nodes"]})
    turn = threading.Lock()
    for job in jobs:
        display.add(job.name)
    with ThreadPoolExecutor(2 * len(jobs)) as threads:
        try:
            references = [
                threads.submit(run_reference, job, inputs, user.folder / "reference" / job.name, stop) for job in jobs
            ]
            journeys = [
                threads.submit(
                    Journey(job, user, zones, turn, stop, display.show, display.tell).run,
                    inputs,
                    user.folder / "fetched" / job.name,
                )
                for job in jobs
            ]
            display.watch()
            _first_failure([*references, *journeys])
        finally:
            stop.set()
    display.still()
    return [
        _judged(user, job, *journey.result(), reference.result())
        for job, journey, reference in zip(jobs, journeys, references, strict=True)
    ]


def _first_failure(futures: Sequence[Future[Any]]) -> None:
    """Wait for all; raise the first exception at once, so that the others are stopped."""
    finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
    problems = [problem for future in finished if (problem := future.exception())]
    # One that was only stopped is not the reason.
    for problem in sorted(problems, key=lambda each: isinstance(each, Stopped)):
        raise problem


def _judged(user: StackUser, job: DemoJob, outcome: Outcome, evidence: Evidence, reference: Evidence) -> Told:
    compared = replace(outcome, differences=differences(job.name, evidence, reference))
    return Told(judge(job.plan, compared), user.client.job_page(outcome.job_id) or {}, job.title)
