"""What /proc tells of a process and of its threads, read in one way for all who ask.

A program names itself: 15 bytes of whatever it likes, half a character or a carriage return among them. The kernel
escapes a newline in a name (fs/proc/array.c, proc_task_name) and in a path (seq_file_path), and nothing else. So lines
end there and nowhere else, and nothing here fails for want of valid UTF-8.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path


def read(path: str | Path) -> str:
    """A file of the kernel's. What is no UTF-8 becomes surrogates, so that a path leads to its file. OSError if it is
    gone."""
    with open(path, "rb") as file:
        return file.read().decode("utf-8", "surrogateescape")


def lines(path: str | Path) -> list[str]:
    """Its lines. OSError if it is gone."""
    return read(path).removesuffix("\n").split("\n")


def printable(text: str) -> str:
    """For people, logs and messages: what is no character to be seen becomes a question mark."""
    return text if text.isprintable() else "".join(one if one.isprintable() else "?" for one in text)


class Status:
    """/proc/PID/status of a process or a thread, as it was then. Nothing in it is found if that is gone.

    Fields are looked for when they are asked for: there are sixty, of which a freeze wants one."""

    def __init__(self, text: str = "") -> None:
        self._text = f"\n{text}"

    def __bool__(self) -> bool:
        return len(self._text) > 1

    def field(self, name: str) -> str:
        """What stands behind that name; empty if nothing does."""
        begin = self._text.find(f"\n{name}:\t")
        if begin < 0:
            return ""
        begin += len(name) + 3
        return self._text[begin : self._text.find("\n", begin)]

    def kib(self, name: str) -> int:
        """A size in KiB; 0 if it is not there."""
        return int(self.field(name).removesuffix(" kB") or 0)

    @property
    def private_kib(self) -> int:
        """Memory of its own, in swap or not (proc(5))."""
        return self.kib("RssAnon") + self.kib("VmSwap")

    def signals(self, name: str) -> int:
        """A set of signals, one bit each, bit 0 for signal 1."""
        return int(self.field(name) or "0", 16)

    @property
    def name(self) -> str:
        """The short name, for people."""
        return printable(self.field("Name")) if self else "?"

    @property
    def state(self) -> str:
        """The letter of its state; `?` if it is gone."""
        return self.field("State")[:1] or "?"

    @property
    def parent(self) -> int:
        """0 if it has none that is seen."""
        return int(self.field("PPid") or 0)

    @property
    def tracer(self) -> int:
        """0 if it is not traced."""
        return int(self.field("TracerPid") or 0)

    @property
    def numbers(self) -> list[int]:
        """Its number in each pid namespace that knows it, this program's first."""
        return [int(word) for word in self.field("NSpid").split()]

    @property
    def sessions(self) -> list[int]:
        """Its session's numbers, likewise; 0 where the leader is not seen."""
        return [int(word) for word in self.field("NSsid").split()]


def status(pid: int, tid: int = 0) -> Status:
    """Of a process, or of its thread `tid`."""
    with contextlib.suppress(OSError):
        return Status(read(f"/proc/{pid}/task/{tid}/status" if tid else f"/proc/{pid}/status"))
    return Status()


def stat(pid: int, tid: int = 0) -> list[str]:
    """The fields of /proc/PID/stat (of the thread `tid`) from the third on, the state. OSError if it is gone."""
    return read(f"/proc/{pid}/task/{tid}/stat" if tid else f"/proc/{pid}/stat").rpartition(")")[2].split()


def threads(pid: int) -> list[int]:
    """The threads of a process. OSError if it is gone."""
    return [int(name) for name in os.listdir(f"/proc/{pid}/task")]


def everyone() -> list[int]:
    """All processes that this program's /proc shows."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def mount_of(descriptor: int) -> int:
    """The number of the mount on which a file lies that this program has open, as in mountinfo (Mount.number)."""
    found = re.search(r"^mnt_id:\s*(\d+)$", read(f"/proc/self/fdinfo/{descriptor}"), re.MULTILINE)
    return int(found[1]) if found else 0


def command(pid: int) -> str:
    """The short name of a process (never its arguments: they may hold secrets); `?` if it is gone."""
    with contextlib.suppress(OSError):
        return printable(read(f"/proc/{pid}/comm").removesuffix("\n"))
    return "?"


def level(init_pid: int) -> int:
    """Where in `Status.numbers` the numbers of this container stand; -1 if its first process is gone."""
    return len(status(init_pid).numbers) - 1


def inner(tasks: Iterable[int], init_pid: int) -> dict[int, int]:
    """What the container of `init_pid` calls these processes or threads, those that live and are in it."""
    place = level(init_pid)
    found = ((task, status(task).numbers) for task in tasks) if place >= 0 else ()
    return {task: numbers[place] for task, numbers in found if len(numbers) > place}
