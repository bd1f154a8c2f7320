"""A second virtual machine, as a platform engineer has it: Debian 12 with systemd and Docker from its packages, pure
cgroup version 2, systemd as Docker's cgroup driver, and nothing of ours. It boots anew for each job, with a
network card.

Built once, from the machine's own apt sources, below /var/cache/perdure/vm-systemd.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.vm import build, packages
from tests.vm.packages import run
from tests.vm.qemu import Qemu

CACHE = build.CACHE.parent / "vm-systemd"
GUEST = Path(__file__).parent / "systemd_guest"
_PACKAGES = [
    *("base-files", "base-passwd", "bash", "coreutils", "dash", "util-linux", "mount", "tar", "sed", "grep", "gzip"),
    *("findutils", "hostname", "libc-bin", "login", "mawk", "procps", "python3", "runc", "iproute2", "iptables"),
    *("kmod", "busybox-static", "docker.io", "tini", "curl", "systemd", "systemd-sysv", "dbus", build.KERNEL),
]
_UNNEEDED = ("perl", "libperl", "locales", "libc-l10n", "udev", "initramfs", "klibc", "debconf", "dpkg")
_MODULES = (
    "loop xfs overlay virtio_net veth bridge br_netfilter nf_tables unix_diag tcp_diag udp_diag raw_diag inet_diag"
)
_ROOT_MIB = 3072
JOB_MIB = 128


def built(progress: Callable[[str], None] = print) -> Qemu:
    """The machine, built if this combination of versions was not built yet."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        everything = packages.closure(_PACKAGES, empty=True)
        root_files = {file: name for file, name in everything.items() if not name.startswith(_UNNEEDED)}
        qemu_files = packages.closure(["qemu-system-x86"], empty=False)
        ours = [Path(__file__), Path(packages.__file__), build.GUEST / "wait.py", *sorted(GUEST.iterdir())]
        parts = [*sorted(root_files), *sorted(qemu_files), *(path.read_text() for path in ours)]
        folder = CACHE / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
        # Without AppArmor, whose package is not there: systemd mounts what makes Docker look for it.
        made = Qemu(folder, JOB_MIB, "apparmor=0")
        if not made.root.exists():
            _build(made, root_files, qemu_files, progress)
        return made


def _build(made: Qemu, root_files: dict[str, str], qemu_files: dict[str, str], progress: Callable[[str], None]) -> None:
    for old in CACHE.iterdir():
        if old.is_dir() and old.name not in ("archives", made.folder.name):
            shutil.rmtree(old)
    shutil.rmtree(made.folder, ignore_errors=True)
    made.folder.mkdir()
    progress("virtual machine with systemd: fetching Debian packages")
    debs = packages.download({**root_files, **qemu_files}, CACHE / "archives")
    progress("virtual machine with systemd: unpacking")
    packages.unpack([deb for deb in debs if deb.name in qemu_files and deb.name not in root_files], made.prefix)
    root = made.folder / "root"
    packages.unpack([deb for deb in debs if deb.name in root_files], root)
    version = next((root / "usr/lib/modules").iterdir()).name
    _furnish(root, version)
    build.initrd(root, version, made.initrd, GUEST / "initrd.sh")
    (root / f"boot/vmlinuz-{version}").rename(made.kernel)
    argv = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-E", "lazy_itable_init=1,root_owner=0:0"]
    draft = made.root.with_suffix(".new")
    run([*argv, "-d", str(root), str(draft), f"{_ROOT_MIB}M"])
    shutil.rmtree(root)
    draft.rename(made.root)
    progress("virtual machine with systemd: built")


def _furnish(root: Path, version: str) -> None:
    """What the packages' own scripts would have done, and the service that runs a test's job."""
    for name in ("proc", "sys", "dev", "run", "tmp", "work", "opt/vm", "var/tmp", "var/lib/docker", "root", "etc/ecs"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, target in (("run", "/run"), ("lock", "/run/lock")):
        (root / "var" / name).rmdir()
        (root / "var" / name).symlink_to(target)
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
    with open(root / "etc/passwd", "a") as users, open(root / "etc/group", "a") as groups:
        users.write("messagebus:x:100:107::/nonexistent:/usr/sbin/nologin\n")
        groups.write("docker:x:106:\nmessagebus:x:107:\nsystemd-journal:x:108:\n")
    for name, text in {
        "etc/hosts": "127.0.0.1 localhost vm\n",
        "etc/hostname": "vm\n",
        "etc/resolv.conf": "",
        "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
        "etc/fstab": "",
        "etc/modules-load.d/vm.conf": "\n".join(_MODULES.split()) + "\n",
        "etc/tmpfiles.d/thp.conf": "w /sys/kernel/mm/transparent_hugepage/enabled - - - - madvise\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for link, target in (("iptables", "xtables-nft-multi"), ("ip6tables", "xtables-nft-multi")):
        for suffix in ("", "-save", "-restore"):
            place = root / "usr/sbin" / f"{link}{suffix}"
            place.unlink(missing_ok=True)
            place.symlink_to(target)
    (root / "usr/bin/awk").unlink(missing_ok=True)
    (root / "usr/bin/awk").symlink_to("mawk")
    run(["ldconfig", "-r", str(root)])
    run(["depmod", "-b", str(root), version])
    units = root / "etc/systemd/system"
    wants = units / "multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (units / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    (units / "getty.target").symlink_to("/dev/null")
    for name in ("docker.service", "containerd.service"):
        (wants / name).symlink_to(f"/lib/systemd/system/{name}")
    (units / "sockets.target.wants").mkdir(exist_ok=True)
    (units / "sockets.target.wants/docker.socket").symlink_to("/lib/systemd/system/docker.socket")
    shutil.copy(GUEST / "vm-job.service", units / "vm-job.service")
    (wants / "vm-job.service").symlink_to("/etc/systemd/system/vm-job.service")
    shutil.copy(build.GUEST / "wait.py", root / "opt/vm/wait.py")
    (root / "opt/vm/preload.json").write_text(json.dumps([]))
