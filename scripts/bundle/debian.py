"""Debian packages of any suite and architecture, by the machine's own apt configuration ; dpkg hears nothing."""

from __future__ import annotations

import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scripts.bundle import taken

_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_LIMIT = 600.0


class BuildFailed(Exception):
    """The bundle was not built; the message says what is missing and what to do."""


def run(argv: list[str], **options: object) -> str:
    """Run a program that must succeed; its output. BuildFailed with its last words otherwise."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_LIMIT, check=False, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        raise BuildFailed(f"{shlex.join(argv[:6])} failed: {(done.stderr or done.stdout).strip()[-800:]}")
    return str(done.stdout)


@dataclass(frozen=True)
class Suite:
    """One suite of the archive for one architecture, with an apt state of its own below `cache`."""

    name: str
    architecture: str
    cache: Path

    @property
    def _place(self) -> Path:
        return self.cache / f"{self.name}-{self.architecture}"

    def fetch(self, packages: list[str], known: bool = False) -> list[Path]:
        """The .deb files of these packages and of all that they need, resolved as if nothing were installed.

        `known`: those of the last time will do, if they are still here; the archive is not asked whether it has newer.
        """
        place, record = self._place, self._place / "taken.json"
        if known and (found := taken.recall(record, packages)):
            return found
        for folder in ("lists/partial", "archives/partial"):
            (place / folder).mkdir(parents=True, exist_ok=True)
        signed = f" signed-by={_KEYRING}" if _KEYRING.exists() else ""
        (place / "sources.list").write_text(f"deb [arch={self.architecture}{signed}] {site()} {self.name} main\n")
        (place / "status").touch()
        options = {
            "Dir::Etc::sourcelist": place / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State": place,
            "Dir::State::status": place / "status",
            "Dir::Cache": place,
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
        }
        apt = ["apt-get", "-q", "-y", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
        run([*apt, "update"])
        run([*apt, "--download-only", "install", *packages])
        planned = _planned(run([*apt, "--simulate", "install", *packages]))
        found = [deb for deb in sorted((place / "archives").glob("*.deb")) if _of(deb) in planned]
        if len(found) != len(planned):
            missing = planned - {_of(deb) for deb in found}
            raise BuildFailed(f"apt did not fetch {', '.join(' '.join(one) for one in sorted(missing))} of {self.name}")
        taken.keep(record, packages, found)
        return found


def _planned(simulated: str) -> set[tuple[str, str]]:
    """Name and version of what `apt-get --simulate install` would install: lines `Inst NAME (VERSION …)`."""
    lines = [line.split() for line in simulated.splitlines() if line.startswith("Inst ")]
    return {(words[1].split(":")[0], words[2].lstrip("(")) for words in lines}


def _of(deb: Path) -> tuple[str, str]:
    name, version = deb.name.split("_")[:2]
    return name, version.replace("%3a", ":")


def site() -> str:
    """The Debian archive that this machine already uses."""
    asked = [
        "apt-get",
        "indextargets",
        "--format",
        "$(SITE)",
        "Created-By: Packages",
        "Origin: Debian",
        "Component: main",
    ]
    sites = [site for site in run(asked).split() if "security" not in site]
    if not sites:
        run(["apt-get", "-q", "update"])
        sites = [site for site in run(asked).split() if "security" not in site]
    if not sites:
        raise BuildFailed("no Debian archive in this machine's apt configuration: add one to /etc/apt/sources.list")
    return sorted(set(sites))[0]


def unpack(debs: list[Path], root: Path) -> None:
    """Unpack packages below `root`, whose /bin, /sbin, /lib are links into /usr. No script of theirs runs."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")

    def one(deb: Path) -> None:
        # tar and not `dpkg-deb -x`, which would replace the links by folders.
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as source:
            argv = ["tar", "-x", "--keep-directory-symlink", "-C", str(root)]
            done = subprocess.run(argv, stdin=source.stdout, capture_output=True, timeout=_LIMIT, check=False)
        if done.returncode != 0 or source.returncode != 0:
            raise BuildFailed(f"{deb.name} was not unpacked: {done.stderr.decode()[-300:]}")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, debs))


def fields(deb: Path, *names: str) -> list[str]:
    """Fields of the package, such as Version."""
    form = "".join(f"${{{name}}}\\n" for name in names)
    return run(["dpkg-deb", "--showformat", form, "--show", str(deb)]).splitlines()
