"""runc's own integration tests, with runc and with our runtime in its place: what passes with one passes with both.

They are shell scripts for `bats`, from Debian's source package of the runc that is installed. Two of their needs are
not in it: container images (here Debian's static busybox, and a root made by debootstrap), and the program that takes
terminals (recvtty.py). What needs runc's other small programs, systemd or another user skips or fails with both.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Collection
from pathlib import Path

from perdure.image.mounts import delete_tree
from perdure.settings import CRIU_PREFIX
from tests.conformance.courses import tell
from tests.conformance.sources import CACHE, SourceMissing, unpacked
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
RUNTIMES = {"runc": "runc", "perdure-runtime": str(ROOT / "worker_agent/runtime/perdure-runtime")}
IMAGE_LIMIT, FILE_LIMIT, TEST_LIMIT = 1800, 900, 60
PROGRAMS = {"bats": "bats", "busybox": "busybox-static", "jq": "jq", "gawk": "gawk", "debootstrap": "debootstrap"}
_RECVTTY = '	("$RECVTTY" --pid-file "$dir/pid" --mode null "$CONSOLE_SOCKET" &) &'
_WAIT = '	until [ -S "$CONSOLE_SOCKET" ]; do sleep 0.02; done'
_LINE = re.compile(r"^(not )?ok \d+ (.*?)(?: # (skip|timeout)(.*))?$", re.MULTILINE)
_FIRST = """
import os, pty, sys
child = os.fork()
if child == 0:
    sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))
while True:
    ended, status = os.wait()
    if ended == child:
        sys.exit(os.waitstatus_to_exitcode(status))
"""
"""The first process of the namespaces. It gives the tests a controlling terminal, which many of them want, and waits
for everybody's orphans: to runc a container runs as long as somebody could still wait for its first process."""
_INSIDE = ["/bin/sh", "-c", 'ip link set lo up && exec "$@"', "sh", sys.executable, "-c", _FIRST]
"""Over loopback CRIU finds out what the kernel can do."""
_PLACE, _CGROUP = CACHE / "bats", "runc-cgroups-integration-test"
_NEEDS = {"seccomp-notify": "needs runc's seccompagent, which no Debian package has"}
"""Files that would wait for ever for what is not there."""
Found = dict[str, dict[str, str]]
"""{"file: test": {"runc": outcome, "perdure-runtime": outcome}}"""


def run_runc_tests(done: Callable[[Found], None], files: Collection[str] = ()) -> None:
    """Every test of these `files` (none: of all) with both runtimes; `done` hears of each file's. Raises
    SourceMissing."""
    if missing := [package for program, package in PROGRAMS.items() if not shutil.which(program)]:
        raise SourceMissing(f"runc's tests need programs that are missing: apt-get install {' '.join(missing)}")
    folder = _prepared()
    for file in sorted(folder.glob("*.bats")):
        if files and file.stem not in files:
            continue
        found: Found = {}
        for name, runtime in RUNTIMES.items():
            outcomes = _run(file, shutil.which(runtime) or runtime)
            tell(
                f"{file.stem} with {name}: {sum(word == 'pass' for word in outcomes.values())} of {len(outcomes)} pass"
            )
            for test, outcome in outcomes.items():
                found.setdefault(f"{file.stem}: {test}", {})[name] = outcome
        done(found)


def _version() -> str:
    """Of the installed runc's source, such as 1.1.5+ds1."""
    asked = ["dpkg-query", "--show", "--showformat", "${source:Upstream-Version}", "runc"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode:
        raise SourceMissing("the installed runc is not Debian's")
    return done.stdout


def _prepared() -> Path:
    """The folder of the tests, with images and the program for terminals."""
    codename = next(
        line.partition("=")[2]
        for line in Path("/etc/os-release").read_text().splitlines()
        if line.startswith("VERSION_CODENAME=")
    )
    source = unpacked("runc", _version(), codename)
    folder = source / "tests/integration"
    busybox, debian = CACHE / "busybox.tar", CACHE / f"debian-{codename}.tar"
    _make_busybox(busybox)
    if not debian.exists():
        _make_debian(debian, codename)
    images = folder / "get-images.sh"
    images.write_text(f"#!/bin/sh\necho BUSYBOX_IMAGE={busybox}\necho DEBIAN_IMAGE={debian}\n")
    images.chmod(0o755)
    helpers = folder / "helpers.bash"
    text = helpers.read_text()
    if _WAIT not in text:  # runc's own program is there at once; ours is Python
        helpers.write_text(text.replace(_RECVTTY, f"{_RECVTTY}\n{_WAIT}", 1))
    place = source / "contrib/cmd/recvtty/recvtty"
    place.unlink(missing_ok=True)
    place.symlink_to(Path(__file__).with_name("recvtty.py"))
    return folder


def _make_busybox(archive: Path) -> None:
    """As the image of that name: without `proc` and `sys`, which tests make themselves."""
    place = CACHE / "busybox.part"
    delete_tree(place)
    for name in ("bin", "etc", "dev", "tmp", "root", "home", "usr/bin", "usr/sbin", "var/spool/mail"):
        (place / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "/bin/busybox", place / "bin/busybox")
    listed = subprocess.run(
        [place / "bin/busybox", "--list"], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    for applet in listed.stdout.split():
        if applet != "busybox":
            (place / "bin" / applet).symlink_to("busybox")
    (place / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n")
    (place / "etc/group").write_text("root:x:0:\ndaemon:x:1:\n")
    (place / "tmp").chmod(0o1777)
    _pack(place, archive)


def _make_debian(archive: Path, codename: str) -> None:
    place = CACHE / "debian.part"
    delete_tree(place)
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=gcc,libc6-dev", codename, str(place)],
        capture_output=True,
        text=True,
        timeout=IMAGE_LIMIT,
        check=False,
    )
    if done.returncode:
        raise SourceMissing(f"debootstrap cannot make an image: {done.stdout[-300:]}")
    _pack(place, archive)


def _pack(place: Path, archive: Path) -> None:
    new = archive.with_suffix(".new")
    with tarfile.open(new, "w") as tar:
        tar.add(place, ".")
    new.rename(archive)
    delete_tree(place)


def _run(file: Path, runtime: str) -> dict[str, str]:
    """pass, fail, skip (why) or no result for each test of the file. What a test leaves behind goes with the namespaces
    that they run in."""
    names = re.findall(r'^@test "(.*)" \{', file.read_text(), re.MULTILINE)
    if file.stem in _NEEDS:
        return dict.fromkeys(names, _NEEDS[file.stem])
    path = f"{CRIU_PREFIX / 'bin'}:{CRIU_PREFIX / 'libexec'}:{os.environ['PATH']}"
    environment = {
        **os.environ,
        "RUNC": runtime,
        "PATH": path,
        "BATS_TEST_TIMEOUT": str(TEST_LIMIT),
        "TMPDIR": str(_PLACE),
    }
    _PLACE.mkdir(exist_ok=True)
    isolated = ["unshare", "--mount", "--net", "--pid", "--mount-proc", "--propagation", "private"]
    isolated += ["--kill-child", "--fork"]
    said = CACHE / f"{file.stem}.{Path(runtime).name}.tap"
    with said.open("w") as out, contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [*isolated, *_INSIDE, "bats", "--tap", str(file)],
            cwd=CACHE,  # runc leaves logs of CRIU where it is called
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=FILE_LIMIT,
            check=False,
        )
    _clean()
    return _outcomes(names, said.read_text(errors="replace"))


def _outcomes(names: list[str], said: str) -> dict[str, str]:
    """What bats said of each test."""
    outcomes = dict.fromkeys(names, f"no result within {FILE_LIMIT} s")
    for failed, name, remark, words in _LINE.findall(said):
        if remark == "skip":
            outcomes[name] = f"skip: {words.strip(' ()')}"
        elif remark == "timeout":
            outcomes[name] = f"fail: no end within {TEST_LIMIT} s"
        else:
            outcomes[name] = "fail" if failed else "pass"
    return outcomes


def _clean() -> None:
    """What a test that was ended has left on the machine: its bundles, and the cgroup that they all use."""
    delete_tree(_PLACE)
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        for folder, _, _ in os.walk(hierarchy / _CGROUP, topdown=False):
            with contextlib.suppress(OSError):  # a process in it is just ending
                os.rmdir(folder)
