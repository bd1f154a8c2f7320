"""The agent's preflight on a real container: told once, told again when it changes; io_uring is refused by default."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from perdure.contracts.protection import NodeReport, ReportKind, Verdict
from perdure.domain.retries import RetryRule, RetryStrategy
from tests.integration.agent_bed import Bed, bed, until

pytestmark = pytest.mark.criu

RING = """exec python3 -c "
import ctypes, os, time
libc = ctypes.CDLL(None, use_errno=True)
place = ctypes.create_string_buffer(120)
print('ring', libc.syscall(425, 4, place), ctypes.get_errno(), flush=True)
while True:
    time.sleep(.1)
    if os.path.exists('/change'):
        libc.syscall(425, 4, place)
        print('another', ctypes.get_errno(), flush=True)
        os.unlink('/change')
"
"""
RECLAIMS = RetryStrategy(attempts=5, rules=[RetryRule(action="RETRY", on_status_reason="Host EC2*")])


@pytest.fixture
async def home() -> AsyncIterator[Bed]:
    async with bed() as made:
        yield made


async def verdict(home: Bed, count: int = 1) -> NodeReport:
    return await home.report(ReportKind.PREFLIGHT, count)


@pytest.mark.row("Processes", "io_uring: refused to the job by default (ENOSYS), so that programs do without")
async def test_a_job_that_asks_for_a_ring_gets_none_and_is_protectable(home: Bed) -> None:
    node = await home.new_node()
    launched = await home.launch(node, RING, home.plan(retry=RECLAIMS))
    told = await verdict(home)
    assert (told.reason, told.level) == ("Preflight: protectable.", "info")
    await until(launched.lines, "the job's first line")
    assert launched.lines() == ["ring -1 38"]
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is not None, outcome.failure


async def test_a_job_that_insists_is_told_what_stands_in_the_way(home: Bed) -> None:
    node = await home.new_node()
    plan = home.plan(retry=RetryStrategy(attempts=1))
    assert plan.configuration is not None
    checkpoint = plan.configuration.checkpoint.model_copy(update={"refuse_io_uring": False})
    plan = plan.model_copy(update={"configuration": plan.configuration.model_copy(update={"checkpoint": checkpoint})})
    launched = await home.launch(node, RING, plan)
    await launched.first_line()
    told = await verdict(home)
    if "io_uring" not in told.reason:  # the first look was earlier than the ring
        told = await verdict(home, 2)
    assert told.level == "warning"
    assert told.reason.startswith("Preflight: protectable with changes.")
    assert "Process 1 (python3) has an io_uring ring open" in told.reason
    assert "The job has one attempt only" in told.reason
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is None
    assert "io_uring" in outcome.failure


STOPPED = """exec python3 -c "
import itertools, os, signal, time
child = os.fork()
if child == 0:
    while True:
        print('child', flush=True)
        time.sleep(.02)
time.sleep(.2)
os.kill(child, signal.SIGSTOP)
os.waitpid(child, os.WUNTRACED)
for number in itertools.count():
    if os.path.exists('/mnt/perdure/hurry'):
        break
    with open('/proc/%d/stat' % child) as stat:
        print('parent', number, stat.read().split()[2], flush=True)
    time.sleep(.05)
os.kill(child, signal.SIGKILL)
"
"""


@pytest.mark.row("Processes", "a stopped process, by the agent and the runtime: not continued at the start")
async def test_a_stopped_child_of_a_restored_container_is_not_continued(home: Bed) -> None:
    node = await home.new_node()
    launched = await home.launch(node, STOPPED, home.plan())
    await until(lambda: "parent 5 T" in launched.lines(), "a stopped child")
    outcome = await home.checkpoint(node)
    assert outcome.checkpoint is not None, outcome.failure
    home.lose(node, launched)
    node = await home.new_node()
    again = await home.launch(node, "exit 9", home.plan(Verdict.RESTORE), attempt=2)
    log = home.job_root(node) / "log/stdout"
    restored = log.read_text().count("parent")
    await until(lambda: log.read_text().count("parent") > restored + 3, "the parent goes on")
    home.hurry(node)
    assert await again.exit_code() == 0
    written = log.read_text().splitlines()
    first = next(place for place, line in enumerate(written) if line.startswith("parent"))
    after = written[first:]
    assert [line.split()[:2] for line in after] == [["parent", str(number)] for number in range(len(after))]
