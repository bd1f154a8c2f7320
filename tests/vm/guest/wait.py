"""Process 1 of the virtual machine. It imports what every job needs, says `ready` (then the machine's state is saved),
waits for a job on the second disk, runs it in a child, writes what came of it to the second serial line, and ends."""

import io
import json
import mmap
import os
import subprocess
import sys
import tarfile
import termios
import time
import traceback
from typing import Any

MAGIC = b"perdure-vm-job\n"
BLOCK = 4096

sys.path[:0] = ["/work", "/opt/site-packages"]
with open("/opt/vm/preload.json") as names:
    for name in json.load(names):
        __import__(name)


def say(message: dict[str, Any]) -> None:
    with open("/dev/ttyS1", "wb", buffering=0) as line:
        line.write(json.dumps(message).encode() + b"\n")


def wait_for_job() -> dict[str, Any]:
    """The job's header; the tar follows it on the disk. Read past the cache: the disk changes under us."""
    disk = os.open("/dev/vdb", os.O_RDONLY | os.O_DIRECT)
    block = mmap.mmap(-1, BLOCK)
    while os.preadv(disk, [block], 0) != BLOCK or block[: len(MAGIC)] != MAGIC:
        time.sleep(0.05)
    header: dict[str, Any] = json.loads(block[len(MAGIC) :].split(b"\0", 1)[0])
    size = -(-header["size"] // BLOCK) * BLOCK
    content = mmap.mmap(-1, size)
    done = 0
    while done < size:
        done += os.preadv(disk, [memoryview(content)[done : done + (1 << 20)]], BLOCK + done)
    os.close(disk)
    time.clock_settime(time.CLOCK_REALTIME, header["now"])
    subprocess.run(["mount", "-o", "remount,rw", "/"], check=True)
    os.makedirs("/work", exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content[: header["size"]])) as archive:
        archive.extractall("/work")
    return header


def work(header: dict[str, Any]) -> None:
    module, _, function = header["entry"].partition(":")
    try:
        found = getattr(__import__(module, fromlist=["x"]), function)
        say({"result": found(*header["arguments"])})
    except BaseException:
        say({"error": traceback.format_exc()})


def main() -> None:
    os.environ.update(
        PATH="/usr/sbin:/usr/bin:/sbin:/bin", LANG="C.UTF-8", HOME="/root", PYTHONPATH="/work:/opt/site-packages"
    )
    subprocess.run(["stty", "-F", "/dev/ttyS1", "raw", "-echo"], check=True)
    say({"ready": True})
    header = wait_for_job()
    child = os.fork()
    if child == 0:
        os.setsid()
        work(header)
        sys.stdout.flush()
        os._exit(0)
    while os.waitpid(-1, 0)[0] != child:  # everything that lost its parent is ours
        pass
    say({"end": True})
    with open("/dev/ttyS1", "wb", buffering=0) as line:
        termios.tcdrain(line.fileno())


def end() -> None:
    """QEMU ends when the machine would boot again."""
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("b")


try:
    main()
except BaseException:
    traceback.print_exc()
    time.sleep(1)
end()
