"""What jobs have open, where that once got in the way: files without their names, kernel objects that look like such,
and descriptors in great numbers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from perdure.domain.checkpoints import CheckpointKind, Manifest
from perdure.domain.errors import NotCheckpointable
from tests.integration.engine_bed import Bed, Running, freezer_of
from tests.integration.test_engine import RESERVE, checkpoint, die, fresh, identity, restored
from tests.patience import PATIENCE
from worker_agent.engine import take_checkpoint
from worker_agent.preflight import examine

pytestmark = [pytest.mark.criu]

TICK = "\nimport time\nwhile True:\n    print(say(), flush=True)\n    time.sleep(.05)\n"
LOST = """
import os
os.makedirs('/srv/final'); os.makedirs('/srv/stage/deeper')
old = '/srv/stage/deeper/' + 'part'
file = open(old, 'w+b', buffering=0); file.write(bytes(100))
os.link(old, '/srv/final/kept'); os.unlink(old); os.rmdir('/srv/stage/deeper'); os.rmdir('/srv/stage')
def say():
    file.write(b'x')
    same = os.stat('/srv/final/kept').st_ino == os.fstat(file.fileno()).st_ino
    return 'same' if same and not os.path.exists('/srv/stage') else 'OTHER'
"""
LONG = """
import os
file = open('/' + 'n' * 255, 'w+b', buffering=0)
os.link('/' + 'n' * 255, '/kept'); os.unlink('/' + 'n' * 255)
say = lambda: 'tick'
"""
ONLY_MAPPED = """
import ctypes, os
libc = ctypes.CDLL(None)
file = os.open('/' + 'n' * 255, os.O_RDWR | os.O_CREAT); os.truncate(file, 4096)
libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
libc.mmap(None, 4096, 1, 1, file, 0); os.close(file)
os.link('/' + 'n' * 255, '/kept'); os.unlink('/' + 'n' * 255)
say = lambda: 'tick'
"""
WATCHED_LINK = """
import ctypes, os
libc = ctypes.CDLL(None)
os.symlink('/etc/hosts', '/srv/link')
libc.inotify_add_watch(libc.inotify_init(), b'/srv/link', 0xfff | 0x02000000)  # IN_ALL_EVENTS | IN_DONT_FOLLOW
say = lambda: 'tick'
"""
LONG_PATH = """
import os
os.chdir('/data')
for _ in range(16):
    os.mkdir('d' * 250); os.chdir('d' * 250)
say = lambda: 'tick'
"""
LIBAIO = """
import ctypes, os, struct
libc = ctypes.CDLL(None, use_errno=True)
context = ctypes.c_ulong()
assert libc.syscall(206, 64, ctypes.byref(context)) == 0
file = os.open('/data/aio', os.O_RDWR | os.O_CREAT)
buffer = ctypes.create_string_buffer(b'x' * 512, 512)
number = 0
def say():
    global number
    block = struct.pack('QIIHhIQQqQII', number, 0, 0, 1, 0, file, ctypes.addressof(buffer), 512, number * 512, 0, 0, 0)
    asked = ctypes.create_string_buffer(block)
    pointer = (ctypes.c_void_p * 1)(ctypes.addressof(asked))
    assert libc.syscall(209, context, 1, pointer) == 1
    event = ctypes.create_string_buffer(32)
    assert libc.syscall(208, context, 1, 1, event, 0) == 1
    told, _, written, _ = struct.unpack('QQqq', event.raw)
    number += 1
    return 'same' if (told, written) == (number - 1, 512) else 'OTHER'
"""
ENDED_PROCESS = """
import os, subprocess
child = subprocess.Popen(['sleep', '1000'])
kept = os.open(f'/proc/{child.pid}', os.O_RDONLY), os.open(f'/proc/{child.pid}/stat', os.O_RDONLY)
child.kill(); child.wait()
"""
UPGRADED = """
import mmap, os, shutil, subprocess
child = subprocess.Popen(['/usr/bin/sleep', '1000'])
kept = open('/etc/passwd', 'rb', buffering=0); text = kept.read()
only_mapped = mmap.mmap(kept.fileno(), 0, prot=mmap.PROT_READ)
libc = next(line.split()[-1] for line in open('/proc/self/maps') if '/libc.so.6' in line)
for name in (libc, '/usr/bin/sleep', '/usr/bin/python3.11'):
    shutil.copy(name, name + '.new'); os.rename(name + '.new', name)
os.unlink('/etc/passwd'); os.mkdir('/etc/passwd')
assert os.readlink(f'/proc/{child.pid}/exe').endswith(' (deleted)')
def say():
    same = os.pread(kept.fileno(), 1 << 20, 0) == text == only_mapped[:] and os.path.isdir('/etc/passwd')
    return 'same' if same and child.poll() is None and os.listdir('/etc/passwd') == [] else 'OTHER'
"""
UPGRADED_FOLDER = """
import os, shutil
folder = '/usr/share/common-licenses'
kept = open(folder + '/GPL-2')
shutil.rmtree(folder); os.mkdir(folder); open(folder + '/GPL-2', 'w').write('new')  # as pip does
say = lambda: 'tick'
"""
MANY = """
import os, resource
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
each = min(hard - 50, 9000)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
null = os.open('/dev/null', os.O_RDONLY)
for _ in range(each):
    os.dup(null)
for _ in range({count} // each):
    if os.fork() == 0:
        break
say = lambda: 'tick'
"""


@pytest.fixture
async def bed() -> AsyncIterator[Bed]:
    made = Bed.make(600)
    try:
        made.new_node()
        yield made
    finally:
        await made.close()


async def started(bed: Bed, code: str) -> Running:
    bed.command = ["/usr/bin/python3", "-c", code + TICK]
    running = await fresh(bed)
    running.first_line()
    return running


@pytest.mark.parametrize(
    "code", [LOST, ENDED_PROCESS + LIBAIO, UPGRADED], ids=["folder gone", "an ended process, libaio", "upgraded"]
)
@pytest.mark.row("Files", "an open file whose name and folder are gone; libaio; /proc of a process that ended")
@pytest.mark.row("Files", "files of the image that are deleted or replaced while in use: data, a library, programs")
async def test_it_is_saved_twice_and_nothing_of_ours_stays(bed: Bed, code: str) -> None:
    running = await started(bed, code)
    for epoch in (1, 2):
        manifest = await checkpoint(running, epoch)
        running.more_lines(2)
        await die(bed, running)
        running = await restored(bed, epoch + 1, manifest.number)
        running.more_lines(3)
    assert set(running.log().split()) == {b"same"}


NO_NAME = r"cannot be named again \({}, /n{{20,}}.*\. Keep the name"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (LONG, NO_NAME.format("descriptor 3")),
        (ONLY_MAPPED, NO_NAME.format(r"mapping \w+-\w+")),
        (UPGRADED_FOLDER, r"common-licenses/GPL-2 \(deleted\): it is a file of the image, and its folder is gone too"),
        (WATCHED_LINK, r"watches the symbolic link /srv/link itself"),
    ],
    ids=["long name", "long name, only mapped", "image's folder gone", "watched link"],
)
async def test_what_could_not_be_restored_is_said_before_the_freeze(bed: Bed, code: str, said: str) -> None:
    running = await started(bed, code)
    with pytest.raises(NotCheckpointable, match=f"the job cannot be saved now: .*{said}"):
        await checkpoint(running)
    running.more_lines(2)


async def test_a_path_that_no_program_can_copy_is_said_by_preflight_and_the_engine_alike(bed: Bed) -> None:
    running = await started(bed, LONG_PATH)
    container = running.container
    with pytest.raises(NotCheckpointable, match=r"a path of more than 3,800 bytes, which cannot be saved \(d{80}…\)"):
        await checkpoint(running)
    report = examine(freezer_of(running).pids(), container.init_pid, trees=container.trees)
    assert [finding.kind for finding in report.problems] == ["long path"]
    running.more_lines(2)


@pytest.mark.matrix
@pytest.mark.row("Processes", "a job with 180,000 descriptors delays no neighbour")
async def test_a_job_with_many_descriptors_delays_no_neighbour(bed: Bed) -> None:
    """The event loop is free while they are looked at, and the small job is safe long before. With fewer, on a stack:
    tests/e2e/test_neighbours.py."""
    neighbour = Bed.make(600)
    try:
        many, small = await started(bed, MANY.format(count=180_000)), await started(neighbour, "say = lambda: 'tick'")
        order: list[str] = []
        turns = 0

        async def watch() -> None:
            nonlocal turns
            while "look of many" not in order or "room of many" not in order:
                turns += 1
                await asyncio.sleep(0.01)

        async def last(name: str, running: Running) -> Manifest:
            manifest = await take_checkpoint(
                running.container,
                identity(1),
                kind=CheckpointKind.FINAL,
                limit_seconds=PATIENCE,
                keep=2,
                reserve_bytes=RESERVE,
                on_step=lambda step: order.append(f"{step} of {name}"),
            )
            order.append(f"{name} is safe")
            return manifest

        watching = asyncio.create_task(watch())
        await asyncio.gather(last("many", many), last("small", small))
        await watching
        assert order.index("small is safe") < order.index("drain of many")
        assert turns > 10, "the loop went round while the descriptors were looked at"
    finally:
        await neighbour.close()
