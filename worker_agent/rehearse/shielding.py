"""What a rehearsed job could reach outside of itself, and what stands in its way.

    its own files          an overlay above the checkpoint's clones: what is opened for writing is cloned into a folder
                           that is thrown away
    writable mounts        the same, above the shared folder; a file is copied
    the network            a namespace with nothing but loopback, which has the job's addresses
    other mounts           taken out of the rehearsal's mount namespace, so that no volume of a neighbour stays busy
    hooks of the engine    left out

A FIFO and a Unix socket below an overlay are not those of the folder beneath it: nobody meets anybody there. Locks do
not reach the folder beneath either. What cannot be shielded, such as a device, is a reason not to rehearse.
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from perdure.domain.checkpoints import Manifest
from perdure.domain.errors import RestoreFailed
from perdure.image.files import FILES, TREES
from perdure.image.mounts import read_mounts
from worker_agent.engine import criu_image
from worker_agent.engine.connections import FILES as FILES_IMAGE
from worker_agent.engine.overlay import OPTIONS, OverlayMount, mount_again, seen
from worker_agent.rehearse.spec import Spec

LARGEST_COPY = 64 << 20
"""Bytes of all files behind shared mounts that are copied because they are open for writing."""
LARGEST_FILE = 16 << 20
"""Bytes of a single file behind a mount that are copied."""
_HARMLESS_DEVICES = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)}
"""null, zero, full, random, urandom, tty, ptmx (Linux, admin-guide/devices.txt)."""
SETTINGS = ("ipv4/ping_group_range", "ipv4/ip_unprivileged_port_start", "ipv4/ip_nonlocal_bind")
"""What a restore of sockets may depend on; a new network namespace has the kernel's defaults."""
_FILES_MAGIC, _REG, _FLAGS, _NAME, _SIZE = 0x56303138, 3, 2, 6, 8
"""CRIU, images/fdinfo.proto: file_entry.reg; images/regfile.proto."""
_MNT_DETACH, _MS_REC, _MS_SHARED = 0x2, 0x4000, 0x100000
_libc = ctypes.CDLL(None, use_errno=True)


class NotTried(Exception):
    """It could be felt outside, so it is not rehearsed; in words why."""


def leave_other_mounts(spec: Spec) -> None:
    """Take other jobs' files out of this mount namespace: their volumes must be free to be unmounted and detached.

    The mounts here hear from the node's, and the node's hear nothing from here. Among themselves they are shared, as a
    node's usually are: CRIU joins a restored root to them if it was a slave of them (Docker's are).
    """
    if _libc.mount(None, b"/", None, ctypes.c_ulong(_MS_SHARED | _MS_REC), None) != 0:
        raise OSError(ctypes.get_errno(), "the rehearsal's mounts cannot be shared among themselves")
    table = read_mounts()
    jobs, own = str(spec.job_root.parent) + "/", str(spec.job_root)
    others = {mount.device for mount in table if mount.point.startswith(jobs) and not _above(mount.point, own)}
    others -= {mount.device for mount in table if _above(mount.point, own)}
    needed = [own, *map(str, (spec.bundle, spec.criu, spec.path_first, Path(__file__))), *spec.lower_layers]
    for mount in table[::-1]:
        others_own = mount.kind == "overlay" or mount.device in others
        if others_own and not any(_above(mount.point, path) for path in needed):
            _libc.umount2(os.fsencode(mount.point), _MNT_DETACH)


def _above(point: str, path: str) -> bool:
    return point == "/" or path == point or path.startswith(point.rstrip("/") + "/")


def mount_files(spec: Spec) -> Path:
    """The checkpoint's files, below folders that are thrown away; where the container's root is."""
    root = _made(spec.folder / "root")
    clones = spec.job_root / "checkpoints" / str(spec.number) / FILES
    for tree in TREES:
        beneath = [str(clones / tree)] if (clones / tree).is_dir() else []
        beneath += spec.lower_layers if tree == "layer" else []
        at = root if tree == "layer" else _made(seen(spec.folder, tree))
        _mount(spec.folder / "written" / tree, [*beneath, str(_made(spec.folder / "nothing"))], at)
    return root


def _mount(folder: Path, lower: list[str], at: Path) -> None:
    upper, work = _made(folder / "upper"), _made(folder / "work")
    status = os.stat(lower[0])
    os.chown(upper, status.st_uid, status.st_gid)
    os.chmod(upper, stat.S_IMODE(status.st_mode))
    mount_again(OverlayMount(str(at), tuple(lower), str(upper), str(work), OPTIONS))


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    return folder


def alone_on_the_network(spec: Spec, manifest: Manifest) -> None:
    """This namespace has loopback alone; every address that the job's sockets have is put there."""
    addresses = {*manifest.addresses, *filter(None, [manifest.surroundings.address])}
    for address in sorted(map(ipaddress.ip_address, addresses), key=str):
        late = ["nodad"] if address.version == 6 else []
        _run(spec, "ip", "address", "add", f"{address}/{address.max_prefixlen}", "dev", "lo", *late)
    _run(spec, "ip", "link", "set", "lo", "up")
    for family in ("-4", "-6") if Path("/proc/sys/net/ipv6").exists() else ("-4",):
        # CRIU connects datagram sockets to where they were connected, which asks for a way there. This one ends here.
        _run(spec, "ip", family, "route", "add", "default", "dev", "lo")
    for name, value in spec.network_settings.items():
        Path("/proc/sys/net", name).write_text(value)


def _run(spec: Spec, *argv: str) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=spec.restore_seconds)
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise RestoreFailed(f"the rehearsal's network was not made (`{' '.join(argv)}`): {said}", "network", True)


def network_settings(names: Iterable[str]) -> dict[str, str]:
    """What these settings are in the calling thread's network namespace."""
    return {name: place.read_text().strip() for name in names if (place := Path("/proc/sys/net", name)).exists()}


def shielded_config(spec: Spec, root: Path) -> dict[str, Any]:
    """The container's config.json, changed so that all that it reaches is thrown away. NotTried; RestoreFailed (the
    node's fault)."""
    config: dict[str, Any] = json.loads((spec.bundle / "config.json").read_bytes())
    config["root"] = {**config.get("root", {}), "path": str(root)}
    config.pop("hooks", None)
    linux = config.setdefault("linux", {})
    for one in linux.get("namespaces") or []:
        if one.get("type") == "network" and one.get("path"):
            one["path"] = f"/proc/{os.getpid()}/ns/net"
    linux["cgroupsPath"] = spec.cgroup
    devices = (linux.get("resources") or {}).get("devices") or []
    linux["resources"] = {"devices": devices, "memory": {"limit": spec.memory_bytes}, "cpu": {"shares": 2}}
    _refuse_devices(linux.get("devices") or [])
    for number, mount in enumerate(config.get("mounts") or []):
        if mount.get("type") == "bind" or {"bind", "rbind"} & set(mount.get("options") or []):
            mount["source"] = _shield(spec, number, mount)
    config["annotations"] = {
        **(config.get("annotations") or {}),
        "org.criu.config": str(spec.folder / "work/criu.conf"),
    }
    return config


def written_bytes(spec: Spec, images: Path) -> int:
    """The size of files behind others' mounts that the checkpoint has open, or mapped, for writing. ImageInvalid."""
    config: dict[str, Any] = json.loads((spec.bundle / "config.json").read_bytes())
    own = f"{seen(spec.job_root, '')}/"
    binds = [
        os.path.normpath(str(mount.get("destination")))
        for mount in config.get("mounts") or []
        if mount.get("type") == "bind" and not f"{mount.get('source')}/".startswith(own)
    ]
    sizes: dict[str, int] = {}
    for entry in criu_image.entries((images / FILES_IMAGE).read_bytes(), _FILES_MAGIC):
        file = criu_image.part(criu_image.parse(entry), _REG)
        if file is None or criu_image.number(file, _FLAGS) & os.O_ACCMODE == os.O_RDONLY:
            continue
        name = next((field.value for field in file if field.number == _NAME and isinstance(field.value, bytes)), b"")
        path = os.path.normpath("/" + os.fsdecode(name).lstrip("/"))
        if any(_above(bind, path) for bind in binds):
            sizes[path] = max(sizes.get(path, 0), criu_image.number(file, _SIZE))
    return sum(sizes.values())


def _refuse_devices(devices: Iterable[dict[str, Any]]) -> None:
    for device in devices:
        if (device.get("major"), device.get("minor")) not in _HARMLESS_DEVICES:
            raise NotTried(f"it has the device {str(device.get('path'))[:100]}, which is not its own")


def _shield(spec: Spec, number: int, mount: dict[str, Any]) -> str:
    """Where the mount comes from in a rehearsal."""
    source, name = str(mount.get("source", "")), str(mount.get("destination"))[:100]
    own = f"{seen(spec.job_root, '')}/"
    if f"{source}/".startswith(own):
        return str(seen(spec.folder, source.removeprefix(own)))
    if {"ro", "rro"} & set(mount.get("options") or []):
        return source
    status = os.stat(source)
    if stat.S_ISCHR(status.st_mode) and (os.major(status.st_rdev), os.minor(status.st_rdev)) in _HARMLESS_DEVICES:
        return source
    at = spec.folder / "shared" / str(number)
    if stat.S_ISDIR(status.st_mode):
        nothing = str(_made(spec.folder / "nothing"))
        try:
            _mount(spec.folder / "written" / f"shared-{number}", [source, nothing], _made(at))
        except RestoreFailed as problem:
            raise NotTried(f"its mount {name} cannot be shielded: {problem}") from problem
        return str(at)
    if stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST_FILE:
        _made(at.parent)
        shutil.copy2(source, at)
        os.chown(at, status.st_uid, status.st_gid)
        return str(at)
    raise NotTried(f"its mount {name} is shared with others and cannot be shielded")
