"""The overlay of a container's root file system: found in the mount table, replaced by a flat one of ours.

A nested overlay (ours on top of the merged one) runs but cannot be dumped; so ours has the very same lower layers,
with its upper layer and work folder on the job root. `xino=on` keeps inode numbers stable over mounts and makes watched
folders (inotify) restorable. How it takes the place of the container engine's is in writable_layer.py.

The job sees its data and volumes through overlays too, with nothing below them, mounted at `<job root>/seen/`. So all
that it writes to has a device number of our choice (device_numbers.py), and not that of the disk, which changes with
the node. Who writes to a running job's files from outside writes there: an overlay does not notice what changes beneath
it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perdure.domain.errors import DeviceNumberTaken, JobRootBusy, RestoreFailed
from perdure.image.files import TREES
from perdure.image.mounts import Mount, delete_tree, read_mounts
from worker_agent.engine import device_numbers

_OPTIONS_LIMIT = os.sysconf("SC_PAGESIZE") - 1
"""mount(2) takes one page of options. The newer mount API is no way out: it takes 256 characters a string, which is
why util-linux fails on long layer lists."""
OPTIONS = ("xino=on", "index=off", "metacopy=off")
_SEEN, _NOTHING = "seen", "nothing"
"""Folders of the job root: where the overlays of data and volumes are mounted, and the empty folder below them."""
_WORK = {"layer": "layer/work"}
_CHOICES = 5
"""How often free numbers are looked for, for a new job."""
_PATIENCE = 30.0
"""Seconds that a new job waits for another agent of the machine to let go of its numbers; then it takes any."""
_ASKED, _BETWEEN = 4, 0.5
"""How often a restored job asks for its numbers while one is taken, and seconds between."""
_CLONE_FS = 0x200
_UMOUNT_NOFOLLOW = 8
_NOT_OPTIONS = {"lowerdir", "lowerdir+", "upperdir", "workdir", "rw", "ro", "seclabel"}
"""In the table they are the layers themselves, or words that mount(2) does not take as overlay's."""
_ESCAPED = re.compile(r"\\([0-7]{3}|.)")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class OverlayMount:
    """An overlay as the mount table shows it; layers from top to bottom, as absolute paths; `options` are the rest."""

    point: str
    lower: tuple[str, ...]
    upper: str
    work: str
    options: tuple[str, ...] = ()


def find_overlay(rootfs: Path) -> OverlayMount | None:
    """The overlay that is mounted at `rootfs`; None if there is another file system or no mount."""
    point = os.path.realpath(rootfs)
    at_point = [mount for mount in read_mounts() if mount.point == point]
    return parse_overlay(at_point[-1]) if at_point and at_point[-1].kind == "overlay" else None


def overlays_on(job_root: Path) -> list[OverlayMount]:
    """The overlays whose upper layer lies on the job root, wherever they are mounted, newest first."""
    top = os.path.realpath(job_root) + "/"
    overlays = [parse_overlay(mount) for mount in read_mounts() if mount.kind == "overlay"]
    return [overlay for overlay in overlays if overlay.upper.startswith(top)][::-1]


def parse_overlay(mount: Mount) -> OverlayMount:
    """Read the layers out of an overlay's mount options.

    Short relative names (`l/ABC`) are relative to Docker's graph folder, two levels above the mount point.
    """
    values: dict[str, list[str]] = {}
    for option in mount.options.split(","):
        name, _, value = option.partition("=")
        values.setdefault(name, []).append(value)
    graph = os.path.dirname(os.path.dirname(mount.point))
    lower = [layer for text in values.get("lowerdir", []) for layer in _split(text)] or [
        _ESCAPED.sub(_octal, text) for text in values.get("lowerdir+", [])
    ]
    upper, work = (_ESCAPED.sub(_octal, values.get(name, [""])[0]) for name in ("upperdir", "workdir"))
    rest = tuple(option for option in mount.options.split(",") if option.partition("=")[0] not in _NOT_OPTIONS)
    return OverlayMount(mount.point, tuple(os.path.join(graph, layer) for layer in lower), upper, work, rest)


def _octal(match: re.Match[str]) -> str:
    return chr(int(match[1], 8)) if len(match[1]) == 3 else match[1]


def _split(text: str) -> list[str]:
    """The layers of a `lowerdir=`: octal escapes are the mount table's, then `\\:` is overlay's own."""
    plain = re.sub(r"\\([0-7]{3})", _octal, text)
    return [re.sub(r"\\(.)", r"\1", layer) for layer in re.split(r"(?<!\\):", plain)]


def seen(job_root: Path, source: str) -> Path:
    """Where a job sees this folder of its job root (`data`, `volumes/…`), and where others may write to it."""
    return job_root / _SEEN / source


def mount_overlays(
    lower: tuple[str, ...], job_root: Path, point: Path, numbers: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Mount the flat overlay of these lower layers and the job root's layer at `point`, and those through which the job
    sees its other trees, with fresh work folders. `numbers`: the device number of each tree; None lets us choose.

    Returns the numbers. RestoreFailed (the node's fault) if the kernel refuses or, as DeviceNumberTaken, a number is
    not free; JobRootBusy if one of the trees is mounted somewhere already. Then none is mounted.
    """
    others = overlays_on(job_root)
    if others:
        raise JobRootBusy(f"a tree of {job_root} is still mounted at {others[0].point}")
    ours = {tree: _our_overlay(tree, lower, job_root, point) for tree in TREES}
    return _mount_chosen(ours) if numbers is None else _mount_kept(ours, _kept(numbers))


def _kept(numbers: Mapping[str, int]) -> dict[str, int]:
    """The number of each tree; 0 where it has none of ours: it got whatever was free, and may get that again."""
    return {tree: number if (number := numbers.get(tree, 0)) >= device_numbers.FIRST else 0 for tree in TREES}


def _our_overlay(tree: str, lower: tuple[str, ...], job_root: Path, point: Path) -> OverlayMount:
    layers = lower if tree == "layer" else (str(_made(job_root / _NOTHING)),)
    at = point if tree == "layer" else _made(seen(job_root, tree))
    work = job_root / _WORK.get(tree, f"work/{tree}")
    delete_tree(work)
    work.mkdir(mode=0o755, parents=True)
    return OverlayMount(str(at), layers, str(job_root / TREES[tree]), str(work), OPTIONS)


def device_numbers_of(job_root: Path) -> dict[str, int]:
    """The device number of each tree that is mounted for the job now."""
    trees = {os.path.realpath(job_root / live): tree for tree, live in TREES.items()}
    found = ((trees.get(parse_overlay(mount).upper), mount) for mount in read_mounts() if mount.kind == "overlay")
    return {tree: int(mount.device.partition(":")[2]) for tree, mount in found if tree is not None}


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    return folder


def _mount_chosen(overlays: Mapping[str, OverlayMount]) -> dict[str, int]:
    """Mount each with a device number that is free, for good. Where none is found they get any: a start must not fail
    for numbers that nobody knows yet."""
    for _ in range(_CHOICES):
        chosen = dict(zip(overlays, device_numbers.choose(len(overlays)), strict=True))
        try:
            return _mount_numbered(overlays, chosen, _PATIENCE)
        except DeviceNumberTaken:
            continue
        except RestoreFailed:
            break  # no numbers could be held; or the overlays cannot be mounted, and then the next line says so
    return _mount_numbered(overlays, dict.fromkeys(overlays, 0))


def _mount_kept(overlays: Mapping[str, OverlayMount], numbers: Mapping[str, int]) -> dict[str, int]:
    """Mount each with its number, 0 for any. A number may be taken by somebody's mount that goes away in a moment (what
    is mounted while numbers are held gets one of ours), so it is asked for several times."""
    for _ in range(_ASKED - 1):
        try:
            return _mount_numbered(overlays, numbers)
        except DeviceNumberTaken:
            time.sleep(_BETWEEN)
    return _mount_numbered(overlays, numbers)


def _mount_numbered(
    overlays: Mapping[str, OverlayMount], numbers: Mapping[str, int], patience: float = device_numbers.PATIENCE
) -> dict[str, int]:
    """Mount each with its number, 0 for any. DeviceNumberTaken, with none of them mounted."""
    got: dict[str, int] = {}
    with contextlib.ExitStack() as held:
        holder = held.enter_context(device_numbers.holding(patience)) if any(numbers.values()) else None
        with contextlib.ExitStack() as mounted:
            for tree in sorted(overlays, key=lambda tree: numbers[tree]):
                if holder is None or not numbers[tree]:
                    mount_again(overlays[tree])
                    got[tree] = _number_of(overlays[tree])
                else:
                    got[tree] = _mount_as(holder, overlays[tree], numbers[tree])
                mounted.callback(unmount, overlays[tree].point)
            mounted.pop_all()
    return got


def _mount_as(holder: device_numbers.Holder, overlay: OverlayMount, number: int) -> int:
    return holder.mount(
        number, lambda: mount_again(overlay), lambda: _number_of(overlay), lambda: unmount(overlay.point)
    )


def _number_of(overlay: OverlayMount) -> int:
    return os.minor(os.stat(overlay.point).st_dev)


def mount_again(overlay: OverlayMount) -> None:
    """Mount an overlay as it was found. RestoreFailed (the node's fault) if the kernel refuses."""
    folder, names = _shorten(overlay.lower)
    layers = f"lowerdir={':'.join(_quote(name) for name in names)}"
    places = f"upperdir={_quote(overlay.upper)},workdir={_quote(overlay.work)}"
    options = ",".join([layers, places, *overlay.options])
    if len(os.fsencode(options)) > _OPTIONS_LIMIT:
        said = f"the image has too many layers ({len(overlay.lower)}) for one mount"
        raise RestoreFailed(said, "overlay", node_fault=True)
    code = _mount_from(folder, "overlay", overlay.point, "overlay", options)
    if code:
        said = f"the overlay was not mounted at {overlay.point}: {os.strerror(code)}"
        raise RestoreFailed(said, "overlay", node_fault=True)


def _shorten(lower: tuple[str, ...]) -> tuple[str, list[str]]:
    """The layers' common folder and their names relative to it, when the full names might not fit in one page."""
    if sum(len(os.fsencode(name)) for name in lower) < _OPTIONS_LIMIT // 2 or len(lower) < 2:
        return "/", list(lower)
    folder = os.path.commonpath(lower)
    return folder, [os.path.relpath(name, folder) for name in lower]


def _quote(path: str) -> str:
    return re.sub(r"([\\:,])", r"\\\1", path)


def _mount_from(folder: str, source: str, point: str, kind: str, options: str) -> int:
    """mount(2) with `folder` as the working folder of one short-lived thread; errno, 0 for success."""
    codes: list[int] = []

    def call() -> None:
        if _libc.unshare(_CLONE_FS) != 0:
            codes.append(ctypes.get_errno())
            return
        os.chdir(folder)
        arguments = [os.fsencode(text) for text in (source, point, kind)]
        done = _libc.mount(*arguments, ctypes.c_ulong(0), os.fsencode(options))
        codes.append(ctypes.get_errno() if done != 0 else 0)

    thread = threading.Thread(target=call, name="mount")
    thread.start()
    thread.join()
    return codes[0]


def unmount(point: str) -> None:
    """Unmount what lies topmost at `point`. JobRootBusy if it is in use."""
    if _libc.umount2(os.fsencode(point), _UMOUNT_NOFOLLOW) != 0:
        code = ctypes.get_errno()
        raise JobRootBusy(f"{point} was not unmounted: {os.strerror(code)}")
