"""Files of the image that a job deleted or replaced while it uses them (`apt-get upgrade`).

Such a file lies in a layer below ours. In our upper layer there is something else of its name: the new file, or the
mark of a deletion. The kernel still counts the names that the file has in its own layer. So CRIU takes it for a file
that has another name, and does not find it.

The kernel copies a file up, under its old name, as soon as somebody changes it; but that name is taken. So while the
job is frozen, what is there stands away for a moment, the file gets the mode that it has, and its copy loses the name
again (tried: open files, mapped ones and running programs keep what they have, their inode number included). From then
on it is a deleted file as any other, and CRIU saves those whole. Where its folder is gone too (pip moves whole folders
away), the kernel makes no copy any more.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from perdure.image.mounts import Mount, delete_tree
from worker_agent.engine.inside import folder_of
from worker_agent.engine.overlay import parse_overlay

_AWAY = "away"
"""In the overlay's work folder, which is made anew with every mount: what stands away, and its place."""


def in_its_way(link: str) -> int:
    """What keeps the kernel from copying up the nameless file behind this link below /proc, if it is one of a layer
    below (tried): EEXIST where something has its name, ENOENT where its folder is gone too. 0 for any other file."""
    try:
        if stat.S_ISREG(os.stat(link).st_mode):
            _provoke(link)
    except (FileExistsError, FileNotFoundError) as error:
        if error.errno and os.path.lexists(link):  # else it was closed
            return error.errno
    except OSError:  # it would be another error
        pass
    return 0


def _provoke(link: str) -> None:
    try:
        os.close(os.open(link, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        if error.errno != errno.ETXTBSY:
            raise
        _copy_up(link)  # a program that runs


def _copy_up(link: str) -> None:
    os.chmod(link, stat.S_IMODE(os.stat(link).st_mode))


def give_a_copy(link: str, path: str, mount: Mount, layer: Path) -> None:
    """Let the file behind `link`, whose name was `path` inside the container, on this `mount`, be one of our upper
    `layer` that has no name. Its job must be frozen. OSError if that cannot be done; then everything is as it was.
    Blocks: it copies the file."""
    if os.path.realpath(parse_overlay(mount).upper) != os.path.realpath(layer):
        raise OSError(errno.EXDEV, "it lies on an overlay that is not the container's")
    place = os.path.join(mount.root, os.path.relpath(path, mount.point))
    away = _away(layer)
    delete_tree(away)
    away.mkdir(mode=0o700)
    (away / "place").write_bytes(os.fsencode(place))
    with folder_of(layer, place) as folder:
        os.rename(os.path.basename(place), away / "what", src_dir_fd=folder)
        try:
            _copy_up(link)
        finally:
            put_back(layer)


def put_back(layer: Path) -> None:
    """What stands away comes back to its place, where a copy of its predecessor may be. Nothing happens if nothing
    does. An agent may have died in that moment: its successor calls this before the job runs on."""
    away = _away(layer)
    if os.path.lexists(away / "what"):
        place = os.fsdecode((away / "place").read_bytes())
        with folder_of(layer, place) as folder:
            with suppress(FileNotFoundError):
                os.unlink(os.path.basename(place), dir_fd=folder)
            os.rename(away / "what", os.path.basename(place), dst_dir_fd=folder)
    delete_tree(away)


def _away(layer: Path) -> Path:
    return layer.with_name("work") / _AWAY
