"""What localcloud asks of Linux: commands, mounts, the mount table, loop devices. No state, no policy."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from perdure.domain.errors import CommandFailed, CommandTimeout

MS_RDONLY = 0x1
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MNT_DETACH = 0x2

_libc = ctypes.CDLL(None, use_errno=True)


def run(argv: list[str], limit_seconds: float = 120.0, stdin: str | None = None) -> str:
    """The command's standard output. It runs in a session of its own, so that all of it can be ended at the limit.

    Raises CommandFailed with the end of its stderr, CommandTimeout after `limit_seconds`.
    """
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(stdin, timeout=limit_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            _, err = process.communicate()
            raise CommandTimeout(argv, limit_seconds, err) from None
    if process.returncode:
        raise CommandFailed(argv, process.returncode, err)
    return out


def mount(source: str, target: Path, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2). Raises OSError naming the target.

    The system call and not the program: some util-linux versions refuse an overlay's long `lowerdir`.
    """
    status = _libc.mount(
        os.fsencode(source), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None
    )
    if status != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


def bind(source: Path, target: Path, *, read_only: bool = False) -> None:
    """Bind one mount (nothing below it) of `source` at `target`."""
    mount(str(source), target, flags=MS_BIND)
    if read_only:
        mount("none", target, flags=MS_REMOUNT | MS_BIND | MS_RDONLY)


def unmount(target: Path, *, lazily: bool = False) -> None:
    """umount2(2). Lazily: gone from the table at once, let go when nothing uses it. Raises OSError."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH if lazily else 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


@dataclass(frozen=True)
class MountEntry:
    """One line of a mount table, in the order of the table: a later entry may cover an earlier one."""

    device: str
    """major:minor"""
    root: str
    point: Path
    kind: str
    source: str


def mount_table(pid: int | str = "self") -> list[MountEntry]:
    """/proc/PID/mountinfo. Raises OSError when the process is gone."""
    entries = []
    for line in Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, source, *_) = left.split(" "), right.split(" ")
        entries.append(MountEntry(fields[2], _plain(fields[3]), Path(_plain(fields[4])), kind, _plain(source)))
    return entries


def _plain(text: str) -> str:
    # The kernel writes space, tab, newline and backslash as \ooo.
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text


def loop_devices_below(folder: Path) -> dict[Path, Path]:
    """Loop devices in use whose backing file lies, or lay, below `folder`, or on the file system of one of these.

    Device → backing file, as far as the kernel can still name it: of a file whose mount is gone it shows only the end.
    """
    listing = run(["losetup", "--list", "--json", "--output", "NAME,BACK-FILE,BACK-MAJ:MIN,MAJ:MIN"])
    devices = json.loads(listing or "{}").get("loopdevices", [])
    found: dict[Path, Path] = {}
    numbers: set[str] = set()
    for _ in range(2):  # a pool's device first, then those of the files on it
        for device in devices:
            backing = Path((device["back-file"] or "/").removesuffix(" (deleted)"))
            if backing.is_relative_to(folder) or device["back-maj:min"].strip() in numbers:
                found[Path(device["name"])] = backing
                numbers.add(device["maj:min"].strip())
    return found
