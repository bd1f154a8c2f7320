"""Builds an image of Debian packages: debootstrap into a folder, given its name once it is whole.

The archive's address is the machine's own: whatever apt is configured to use here, proxy included. Packages stay in a
cache beside the images, so that the next image fetches only what is new.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from localcloud.linux import mount_table, run
from localcloud.nodes.images.catalogue import BuiltImage, Catalogue, canonical, is_machine
from perdure.domain.errors import CommandFailed, ConfigurationInvalid, StackError

BUILD_LIMIT_SECONDS = 1800.0
DIGEST_LIMIT_SECONDS = 600.0
SYNC_LIMIT_SECONDS = 300.0
SCRIPTS = Path("/usr/share/debootstrap/scripts")
RESOLVE_LIMIT_SECONDS = 300.0
LEAST_FREE_BYTES = 3 << 30
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_STEPS = {"Retrieving": "fetching packages", "Extracting": "unpacking the base system", "Unpacking": "unpacking"}
_STEPS |= {"Configuring": "configuring"}


def build_image(
    name: str, packages: list[str], tell: Callable[[str], None], catalogue: Catalogue | None = None
) -> BuiltImage:
    """Make the image of these packages (and what they depend on) unless it is there, and give it `name`.

    `tell` gets each step. Safe to be called twice at once. Raises ConfigurationInvalid for a name or package that is
    none, StackError when it cannot be made; nothing but fetched packages is left then.
    """
    catalogue = catalogue or Catalogue()
    canonical(name)
    if is_machine(name):
        raise ConfigurationInvalid(f"{name} is reserved: it is this machine's own root file system; take another name")
    wanted = sorted(set(packages))
    for package in wanted:
        if not _PACKAGE.fullmatch(package):
            raise ConfigurationInvalid(f"{package[:60]!r} is no name of a Debian package")
    suite, architecture = _suite(), run(["dpkg", "--print-architecture"]).strip()
    key = image_key(suite, architecture, wanted)
    with _lock(catalogue.folder, key, tell):
        image = catalogue.by_key(key)
        if image is None:
            image = _build(catalogue, key, suite, architecture, wanted, tell)
        else:
            tell("these packages are in the cache already")
        catalogue.give_name(name, key)
    return image


def remove_image(name: str, catalogue: Catalogue | None = None) -> int:
    """Take the name away, and with an image's last name its files, too; bytes that are free now.

    Raises ConfigurationInvalid when there is no image of that name, StackError while containers use it: then all stays.
    """
    catalogue = catalogue or Catalogue()
    image = catalogue.find(name)
    if image is None:
        catalogue.take_name(name)  # one that stands for a torn image, or ConfigurationInvalid
        return 0
    with _lock(catalogue.folder, image.key, lambda line: None):
        user = _user_of(catalogue.rootfs(image))
        if user:
            raise StackError(f"image {name} is in use by process {user}; stop its stack or wait for its jobs")
        unused = catalogue.take_name(name)
        if unused is None:
            return 0
        gone = catalogue.folder / "roots" / f".{image.key}.{secrets.token_hex(4)}"
        (catalogue.folder / "roots" / image.key).rename(gone)  # nobody finds half an image
        _remove(gone)
    return image.size_bytes


def _user_of(rootfs: Path) -> int | None:
    """A process in whose mount namespace the image is mounted or is an overlay's layer: a container's, or a node's."""
    mark = f"/{rootfs.parent.name}/{rootfs.name}"  # a mount table shows paths from the begin of their file system
    seen: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            namespace = os.readlink(process / "ns" / "mnt")
            if namespace not in seen and mark in (process / "mountinfo").read_text():
                return int(process.name)
        except OSError:  # it ended, or is a kernel thread
            continue
        seen.add(namespace)
    return None


def image_key(suite: str, architecture: str, packages: list[str]) -> str:
    """The folder name of an image: the same packages of the same suite are the same image."""
    return hashlib.sha256(" ".join([suite, architecture, *sorted(set(packages))]).encode()).hexdigest()[:16]


def archive_address() -> str:
    """The address of the archive that this machine's apt has Debian's main packages from. Raises StackError."""
    suite = _suite()
    try:
        lines = run(["apt-get", "indextargets", "--format", "$(CODENAME) $(RELEASE) $(COMPONENT) $(SITE)"]).splitlines()
    except (CommandFailed, OSError) as problem:
        raise StackError(f"apt does not say where its packages come from: {problem}") from problem
    for line in lines:
        codename, release, component, site = ([*line.split(), "", "", "", ""])[:4]
        if suite in {codename, release} and component == "main" and site:
            return site
    raise StackError(f"apt has no source for {suite} main on this machine: add one to /etc/apt/sources.list")


def with_dependencies(packages: list[str]) -> list[str]:
    """These packages, the required ones, and all that they depend on: on a machine without any package.

    debootstrap cannot find this out: it knows no virtual packages (python3-cryptography needs one). apt can, when
    it is told that nothing is installed. Raises ConfigurationInvalid for a package that apt does not know, or that
    stands for several.
    """
    argv = [
        *("apt-get", "--simulate", "--quiet", "--no-install-recommends"),
        *("-o", "Dir::State::status=/dev/null", "-o", "Debug::NoLocking=1"),
        *("install", "?priority(required)", *packages),
    ]
    try:
        said = run(argv, RESOLVE_LIMIT_SECONDS)
    except CommandFailed as problem:
        faults = [line.removeprefix("E: ") for line in problem.stderr.splitlines() if line.startswith("E: ")]
        raise ConfigurationInvalid(
            f"apt cannot resolve {' '.join(packages)}: {'; '.join(faults[:3]) or problem}"
        ) from problem
    lines = (line.split() for line in said.splitlines())
    return sorted({words[1].partition(":")[0] for words in lines if words[:1] == ["Inst"]})


def _build(
    catalogue: Catalogue, key: str, suite: str, architecture: str, packages: list[str], tell: Callable[[str], None]
) -> BuiltImage:
    if shutil.which("debootstrap") is None:
        raise StackError("`debootstrap` is not installed; run `make setup`")
    _check_room(catalogue.folder)
    roots, fetched = catalogue.folder / "roots", catalogue.folder / "packages" / suite
    for folder in (roots, fetched):
        folder.mkdir(parents=True, exist_ok=True)
    for torn in roots.glob(f".{key}.*"):  # of a build that was killed; its mounts died with its namespace
        _remove(torn)
    draft = roots / f".{key}.{secrets.token_hex(4)}"
    draft.mkdir()
    try:
        argv = [
            *("debootstrap", "--variant=minbase", f"--arch={architecture}", f"--cache-dir={fetched}"),
            "--no-resolve-deps",
            *(suite, str(draft / "rootfs"), archive_address(), str(_script(draft, suite, packages))),
        ]
        _debootstrap(argv, tell)
        (draft / "debootstrap-script").unlink()
        _clear_caches(draft / "rootfs")
        tell("taking its digest")
        digest, size = _digest(draft / "rootfs")
        image = BuiltImage(
            key=key, suite=suite, architecture=architecture, packages=packages, digest=digest, size_bytes=size
        )
        (draft / "image.json").write_text(image.model_dump_json(indent=1))
        run(["sync", "--file-system", str(draft)], SYNC_LIMIT_SECONDS)
        draft.rename(roots / key)
    except BaseException:
        _remove(draft)
        raise
    return image


def _script(folder: Path, suite: str, packages: list[str]) -> Path:
    """debootstrap's script of the suite with our lists: what is unpacked first, and what is installed on it."""
    first, everything = with_dependencies([]), with_dependencies(["apt", *packages])
    rest = sorted(set(everything) - set(first))
    script = folder / "debootstrap-script"
    script.write_text(
        f". {SCRIPTS}/{suite}\nwork_out_debs () {{\n  required='{' '.join(first)}'\n  base='{' '.join(rest)}'\n}}\n"
    )
    return script


def _debootstrap(argv: list[str], tell: Callable[[str], None]) -> None:
    """In mount and pid namespaces of its own: what it mounts and starts ends with it, and it ends with us."""
    process = subprocess.Popen(
        [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            *argv,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, **_proxies(), "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
    )

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    alarm = threading.Timer(BUILD_LIMIT_SECONDS, end)
    alarm.start()
    said: list[str] = []
    try:
        assert process.stdout is not None
        step = ""
        for line in process.stdout:
            said = [*said[-30:], line.rstrip()]
            now = _STEPS.get(line.removeprefix("I: ").split(" ")[0], step)
            if now != step:
                step = now
                tell(step)
        status = process.wait()
    finally:
        alarm.cancel()
        if process.poll() is None:
            end()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    if status != 0:
        raise StackError(f"the image was not made: {_reason(said)}")


def _reason(said: list[str]) -> str:
    """What debootstrap's last lines say is wrong."""
    faults = [line[3:] for line in said if line.startswith(("E: ", "W: "))]
    return "; ".join(faults[-3:]) or (said[-1] if said else "debootstrap said nothing")


def _proxies() -> dict[str, str]:
    """apt's proxy, for debootstrap's wget."""
    text = run(["apt-config", "dump", "--format", "%f=%v%n", "Acquire::http::Proxy", "Acquire::https::Proxy"])
    found = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    names = {"http_proxy": "Acquire::http::Proxy", "https_proxy": "Acquire::https::Proxy"}
    return {name: found[key] for name, key in names.items() if found.get(key)}


def _clear_caches(rootfs: Path) -> None:
    """What no job needs: the archive's index and fetched packages."""
    for folder in ("var/cache/apt", "var/lib/apt/lists"):
        for entry in (rootfs / folder).glob("*"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _digest(rootfs: Path) -> tuple[str, int]:
    """sha256 and size of the files as one tar."""
    argv = ["tar", "--sort=name", "--numeric-owner", "--xattrs", "-C", str(rootfs), "-cf", "-", "."]
    digest, size = hashlib.sha256(), 0
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as tar:
        alarm = threading.Timer(DIGEST_LIMIT_SECONDS, tar.kill)
        alarm.start()
        try:
            assert tar.stdout is not None and tar.stderr is not None
            while chunk := tar.stdout.read(1 << 20):
                digest.update(chunk)
                size += len(chunk)
            words = tar.stderr.read().decode(errors="replace")
        finally:
            alarm.cancel()
    if tar.returncode != 0:
        raise StackError(f"the image cannot be read: {words.strip()[-300:] or f'tar ended with {tar.returncode}'}")
    return f"sha256:{digest.hexdigest()}", size


@contextlib.contextmanager
def _lock(folder: Path, key: str, tell: Callable[[str], None]) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{key}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell("another command makes the same image; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE_BYTES:
        raise StackError(f"{folder} has only {free >> 20} MiB free; an image needs up to {LEAST_FREE_BYTES >> 20}")


def _remove(folder: Path) -> None:
    """Delete a folder tree, unless something is mounted in it."""
    if any(entry.point.is_relative_to(folder) for entry in mount_table()):
        raise StackError(f"something is still mounted below {folder}; unmount it and try again")
    shutil.rmtree(folder, ignore_errors=False)


def _suite() -> str:
    """The codename of this machine's Debian. Raises StackError."""
    lines = Path("/etc/os-release").read_text().splitlines()
    names = dict(line.split("=", 1) for line in lines if "=" in line)
    suite = names.get("VERSION_CODENAME", "").strip('"')
    if not suite:
        raise StackError("/etc/os-release names no Debian suite; images are made on Debian machines")
    return suite
