"""Programs with every library and the loader that they need: they run whatever the instance's glibc is.

A program of Debian 12 needs glibc 2.36; Amazon Linux 2023 has 2.34 and Ubuntu 22.04 has 2.35. So loader, libc and all
other libraries come along. The program names the loader by its absolute path (ELF has no relative one) and the folder
of libraries as RPATH, which, unlike RUNPATH and LD_LIBRARY_PATH, serves the libraries of its libraries and is not
inherited by the programs that it starts.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from scripts.bundle.debian import BuildFailed, run

_MAGIC = b"\x7fELF"


def is_elf(path: Path) -> bool:
    if not path.is_file() or path.is_symlink():
        return False
    with path.open("rb") as file:
        return file.read(4) == _MAGIC


class Libraries:
    """The folder of libraries of one set of programs, filled from an unpacked root."""

    def __init__(self, root: Path, folder: Path, final: Path) -> None:
        """`root`: Debian packages, unpacked; `folder`: where libraries go; `final`: its path on an instance."""
        self._folder, self._final = folder, final
        folder.mkdir(parents=True, exist_ok=True)
        self._there: dict[str, Path] = {}
        for place in (root / "usr/lib", *sorted((root / "usr/lib").glob("*-linux-gnu*"))):
            for path in sorted(place.glob("*.so*")):
                self._there.setdefault(path.name, path)

    def _copy(self, name: str) -> bool:
        """A library by its soname, as a file of that name. False when no package brought it."""
        target = self._folder / name
        if not target.exists():
            if name not in self._there:
                return False
            shutil.copyfile(self._there[name].resolve(), target)
            target.chmod(0o755)
        return True

    def bring(self, name: str) -> None:
        """A library that is only loaded when it is needed, so that no program names it."""
        if not self._copy(name):
            raise BuildFailed(f"no package of the bundle brings {name}")

    def add(self, wanting: Iterable[Path], own: Iterable[Path] = ()) -> None:
        """Bring what these ELF files need, and what that needs in turn; `own`: libraries that came with them."""
        brought = {path.name for path in own}
        waiting, seen = list(wanting), set[Path]()
        while waiting:
            path = waiting.pop()
            if path in seen:
                continue
            seen.add(path)
            for name in run(["patchelf", "--print-needed", str(path)]).split():
                if name in brought:
                    continue
                if not self._copy(name):
                    raise BuildFailed(f"{path.name} needs {name}, which no package of the bundle brings")
                waiting.append(self._folder / name)

    def program(self, source: Path, target: Path) -> None:
        """Copy a program, with what it needs, and let it find that."""
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.resolve(), target)
        target.chmod(0o755)
        self.add([target])
        loader = Path(run(["patchelf", "--print-interpreter", str(target)]).strip()).name
        if not self._copy(loader):
            raise BuildFailed(f"{target.name} needs the loader {loader}, which no package of the bundle brings")
        place = str(self._final)
        options = ["--set-interpreter", f"{place}/{loader}", "--force-rpath", "--set-rpath", place]
        run(["patchelf", *options, str(target)])
