"""Groups of CRIU's tests as Batch jobs of a local stack: started, saved, taken from their node, restored, asked.

A group is one job: every test is a process tree of its own in one container, so that hundreds take minutes. What goes
wrong for a group as a whole (it cannot be saved, it is not restored) is tried again in parts, down to the single test.
A test that only comes back wrong is tried again alone, so that no neighbour is to blame. The jobs of one wave share a
node, which is taken away from all of them at once. They share its network, and so find ports that are free elsewhere.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from localcloud.stack.client import FINISHED, StackClient
from localcloud.stack.job_request import JobRequest, container_properties, definition_name, retry_strategy
from perdure.domain.errors import CheckpointFailed
from perdure.image.mounts import delete_tree
from perdure.waiting import until
from tests.conformance.zdtm import Zdtm, as_json, programs

GROUP = Path(__file__).parent / "group.py"
EXCHANGE, PROGRAMS, SCRIPT = "/exchange", "/programs", "/opt/group"
SMALL = 8
"""Tests of a group that is small enough where nothing happens to the job."""
WIDTH = 8
"""Jobs of one wave; together they fill a node of the local stack's usual type."""
VCPUS, MEMORY_MIB = 4 / WIDTH, 8192 // WIDTH
ZONES = ("us-east-1a", "us-east-1b")
NOTICE_SECONDS = 120.0
OWN_NETWORK = {"PERDURE_CHECKPOINT_OWN_NETWORK": "true"}
"""For privileged jobs, which would change the network of their node."""
START_LIMIT, RESTORE_LIMIT, RESULT_LIMIT, LOOK = 300.0, 300.0, 300.0, 1.0
"""Seconds. Each look of each job asks the cloud, which answers for a long time what it did before."""


class Way(StrEnum):
    """What happens to a job."""

    NOTHING = "nothing"
    POWER_LOSS = "power loss"
    """Two checkpoints, then the node is gone without a notice; it goes on in another zone."""
    NOTICE = "notice"
    """A final checkpoint on the notice; it goes on in another zone."""


class Outcome(StrEnum):
    """What became of a test."""

    PASS = "pass"
    REFUSED = "refused"
    """It was not saved, and somebody said why; the job went on."""
    LOST = "lost"
    """A checkpoint was committed and could not be restored."""
    FAIL = "fail"
    """It came back, and not as it was."""
    NOT_STARTED = "not started"
    """It cannot be run in such a container at all."""


@dataclass(frozen=True)
class Result:
    """What became of a test, and who said what of it."""

    outcome: Outcome
    words: str = ""


Results = dict[str, Result]


@dataclass
class Course:
    """One group on its way."""

    tests: list[Zdtm]
    exchange: Path
    job_id: str = ""
    node: str = ""
    whole: Result | None = None
    """What became of all of them together; None while each has its own result to give."""
    results: Results = field(default_factory=dict)

    def read(self, name: str) -> Any:
        """A file of the exchange; None before it is there."""
        with suppress(FileNotFoundError):
            return json.loads((self.exchange / name).read_text())
        return None

    @property
    def started_again(self) -> bool:
        """The job was started anew instead of being restored."""
        with suppress(FileNotFoundError):
            return (self.exchange / "starts").read_text().count("start") > 1
        return False


class Courses:
    """Takes groups through one stack, `width` at a time. `folder` is for the exchange."""

    def __init__(self, client: StackClient, folder: Path, *, width: int = WIDTH, privileged: bool = False) -> None:
        self._client, self._folder, self._width = client, folder, width
        self.privileged = privileged
        self._zone = 0

    def run(
        self,
        tests: Iterable[Zdtm],
        way: Way,
        *,
        size: int = 12,
        alone: Iterable[str] = (),
        done: Callable[[Results], None] = lambda results: None,
    ) -> Results:
        """Take all of them that way. `alone`: names that get a job of their own at once. `done` hears of results as
        they come."""
        single = set(alone)
        together = [test for test in tests if test.name not in single]
        groups = [together[at : at + size] for at in range(0, len(together), size)]
        groups += [[test] for test in tests if test.name in single]
        results: Results = {}
        while groups:
            wave, groups = groups[: self._width], groups[self._width :]
            for course in self._wave(wave, way):
                if course.whole is not None and len(course.tests) > 1:
                    tell(f"  {len(course.tests)} together: {course.whole.outcome}: {course.whole.words[-300:]}")
                settled, again = _settle(course, SMALL if way is Way.NOTHING else 1)
                results |= settled
                groups += again
                done(settled)
        return results

    def _wave(self, groups: Sequence[list[Zdtm]], way: Way) -> list[Course]:
        """These groups at the same time, on one node, and then on one in the other zone."""
        courses = [Course(tests, self._folder / secrets.token_hex(6)) for tests in groups]
        self._client.cloud("POST", "/_local/capacity", json={"zones": [ZONES[self._zone]]})
        with ThreadPoolExecutor(len(courses)) as pool:

            def each(stage: Callable[[Course], None]) -> list[Course]:
                list(pool.map(stage, [course for course in courses if course.whole is None]))
                return [course for course in courses if course.whole is None]

            alive = each(self._start)
            if way is Way.POWER_LOSS:
                alive = each(self._save)
            if way is not Way.NOTHING and alive:
                self._zone = 1 - self._zone
                list(pool.map(lambda node: self._take_away(node, way), {course.node for course in alive}))
                each(self._see_restored)
            each(self._ask)
            list(pool.map(self._end, courses))
        return courses

    def _start(self, course: Course) -> None:
        course.exchange.mkdir(parents=True)
        (course.exchange / "tests.json").write_text(as_json(course.tests))
        mounts = [(str(course.exchange), EXCHANGE), (str(programs()), PROGRAMS), (str(GROUP.parent), SCRIPT)]
        command = ["/usr/bin/python3", "-I", "-S", f"{SCRIPT}/{GROUP.name}", EXCHANGE, PROGRAMS]
        course.job_id = self._submit(
            JobRequest(
                command=command,
                name="zdtm",
                environment={"PERDURE_CHECKPOINT_INTERVAL": "1h", **(OWN_NETWORK if self.privileged else {})},
                mounts=mounts,
            )
        )
        if not _until(lambda: course.read("ready.json") is not None or self._finished(course), START_LIMIT):
            course.whole = Result(Outcome.NOT_STARTED, "the job did not start in time")
        elif (ready := course.read("ready.json")) is None:
            course.whole = Result(Outcome.NOT_STARTED, self._told(course))
        elif len(ready) == len(course.tests):
            course.results = {name: Result(Outcome(what), words) for name, (what, words) in ready.items()}
            course.whole = next(iter(course.results.values()))
        course.node = self._client.placed(course.job_id).get("node") or ""

    def _submit(self, request: JobRequest) -> str:
        """Several to a node, some of them privileged: the command line offers neither."""
        size = {"VCPU": f"{VCPUS:g}", "MEMORY": str(MEMORY_MIB)}
        properties = container_properties(request)
        properties["privileged"] = self.privileged
        properties["resourceRequirements"] = [{"type": kind, "value": value} for kind, value in size.items()]  # type: ignore[typeddict-item]
        with self._client.aws_errors():
            definition = self._client.batch.register_job_definition(
                jobDefinitionName=definition_name(request.name),
                type="container",
                containerProperties=properties,
                retryStrategy=retry_strategy(request.attempts),
            )
            return self._client.batch.submit_job(
                jobName=request.name,
                jobQueue=self._client.state.queues[0],
                jobDefinition=definition["jobDefinitionArn"],
            )["jobId"]

    def _save(self, course: Course) -> None:
        for _ in range(2):
            try:
                self._client.checkpoint(course.job_id)
            except CheckpointFailed as problem:
                course.whole = Result(Outcome.REFUSED, str(problem))
                return

    def _take_away(self, node: str, way: Way) -> None:
        request = {
            "node_id": node,
            "notice_seconds": NOTICE_SECONDS,
            "no_notice": way is Way.POWER_LOSS,
            "to_zone": ZONES[self._zone],
        }
        self._client.reclaim(request, lambda step: None)

    def _see_restored(self, course: Course) -> None:
        def settled() -> bool:
            status = self._status(course)
            return course.started_again or status in FINISHED or self._runs_elsewhere(course, status)

        if not _until(settled, RESTORE_LIMIT):
            course.whole = Result(Outcome.LOST, f"it was not restored in time: {self._told(course)}")
        elif course.started_again or self._finished(course):
            page = self._client.job_page(course.job_id) or {}
            outcome = Outcome.LOST if page.get("checkpoints_committed") else Outcome.REFUSED
            course.whole = Result(outcome, self._told(course))

    def _runs_elsewhere(self, course: Course, status: str) -> bool:
        return status == "RUNNING" and self._client.placed(course.job_id).get("node") not in (None, course.node)

    def _ask(self, course: Course) -> None:
        (course.exchange / "verify").touch()
        if _until(lambda: course.read("results.json") is not None or self._finished(course), RESULT_LIMIT):
            found = course.read("results.json") or {}
            course.results = {name: Result(Outcome(what), words) for name, (what, words) in found.items()}
        if not course.results:
            course.whole = Result(Outcome.FAIL, f"it did not answer: {self._told(course)}")

    def _end(self, course: Course) -> None:
        """The job goes, whatever became of it."""
        (course.exchange / "verify").touch()
        if not self._finished(course):
            _until(lambda: self._finished(course), 3.0)
        if not self._finished(course):
            with self._client.aws_errors():
                self._client.batch.terminate_job(jobId=course.job_id, reason="the test is over")
            _until(lambda: self._finished(course), 60.0)
        delete_tree(course.exchange)

    def _finished(self, course: Course) -> bool:
        return self._status(course) in FINISHED

    def _status(self, course: Course) -> str:
        return str((self._client.described(course.job_id) or {}).get("status"))

    def _told(self, course: Course) -> str:
        """What the product says of the job's troubles."""
        page = self._client.job_page(course.job_id) or {}
        told = [event["message"] for event in page.get("events", []) if event.get("level") in ("warning", "error")]
        return " / ".join(dict.fromkeys(told))[-900:] or "the product says nothing"


def _settle(course: Course, small: int) -> tuple[Results, list[list[Zdtm]]]:
    """Results that stand, and groups to try again. In a group of `small` tests nobody blames a neighbour."""
    if course.whole is not None and not course.results:
        if len(course.tests) == 1:
            return {course.tests[0].name: course.whole}, []
        return {}, _parted(course.tests, course.whole.words)
    missing = Result(Outcome.FAIL, "it gave no result")
    found = {test.name: course.results.get(test.name, missing) for test in course.tests}
    if len(course.tests) <= small:
        return found, []
    again = [test for test in course.tests if found[test.name].outcome is not Outcome.PASS]
    passed = {name: result for name, result in found.items() if result.outcome is Outcome.PASS}
    return passed, [again[at : at + small] for at in range(0, len(again), small)]


def _parted(tests: list[Zdtm], words: str) -> list[list[Zdtm]]:
    """Those whose program is named in the words, each alone, and the others together; the halves if nobody is named."""
    named = [test for test in tests if f"({test.name[:15]})" in words]
    others = [test for test in tests if test not in named]
    if named and others:
        return [*([one] for one in named), others]
    middle = len(tests) // 2
    return [tests[:middle], tests[middle:]]


def _until(condition: Callable[[], object], limit: float) -> bool:
    """Whether it came true within the limit."""
    try:
        until(condition, limit, LOOK)
    except TimeoutError:
        return False
    return True


def tell(line: str) -> None:
    """Progress, for whoever waits."""
    print(line, file=sys.stderr, flush=True)
