"""The overlay of a container's root file system: found in the mount table, replaced by a flat one of ours.

A nested overlay (ours on top of the merged one) runs but cannot be dumped; so ours has the very same lower layers,
with its upper layer and work folder on the job root. `xino=on` keeps inode and device numbers stable over mounts and
makes watched folders (inotify) restorable. How it takes the place of the container engine's is in writable_layer.py.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path

from perdure.domain.errors import JobRootBusy, RestoreFailed
from perdure.image.mounts import Mount, delete_tree, read_mounts

_OPTIONS_LIMIT = os.sysconf("SC_PAGESIZE") - 1
"""mount(2) takes one page of options. The newer mount API is no way out: it takes 256 characters a string, which is
why util-linux fails on long layer lists."""
_OPTIONS = ("xino=on", "index=off", "metacopy=off")
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


def mount_overlay(lower: tuple[str, ...], job_root: Path, point: Path) -> None:
    """Mount the flat overlay of these lower layers and the job root's layer at `point`, with a fresh work folder.

    RestoreFailed (the node's fault) if the kernel refuses, JobRootBusy if the layer is mounted somewhere already.
    """
    others = overlays_on(job_root)
    if others:
        raise JobRootBusy(f"the layer of {job_root} is still mounted at {others[0].point}")
    work = job_root / "layer" / "work"
    delete_tree(work)
    work.mkdir(mode=0o755)
    ours = OverlayMount(str(point), lower, str(job_root / "layer/upper"), str(work), _OPTIONS)
    mount_again(ours)


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
