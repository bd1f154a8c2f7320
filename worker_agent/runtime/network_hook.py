"""Makes the network namespace of a restored container as a create would have made it, before its sockets come back.

    python3 -I -S network_hook.py [NAME=VALUE...]          sysctls below net.; the container's state as JSON on stdin

An OCI hook (createRuntime): `runc restore` runs it when the namespace is there and before CRIU restores sockets. It is
needed because a restore does not apply config.json's `linux.sysctl`, and because from Docker 28 on nobody brings the
loopback device up so early: CRIU then fails with `Can't connect inet socket back: Network is unreachable` (tried).

Standard library only, Python 3.9. What cannot be done is said on stderr and is no failure: a restore that cannot do
without it fails with CRIU's own words.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys

CLONE_NEWNET = 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 0x1
IFREQ = struct.Struct("16sh22x")


def bring_up(name: str) -> None:
    """`ip link set NAME up`, in the network namespace that this process is in."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, SIOCGIFFLAGS, IFREQ.pack(name.encode(), 0))
        flags = IFREQ.unpack(answer)[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, IFREQ.pack(name.encode(), flags | IFF_UP))


def set_sysctl(setting: str) -> None:
    """Write one `net.a.b=value`. The kernel shows the values of the namespace that the opening process is in."""
    name, _, value = setting.partition("=")
    parts = name.split(".")
    if parts[0] != "net" or any(not part or "/" in part for part in parts):
        raise ValueError(f"{name} is no setting of a network namespace")
    with open("/proc/sys/" + "/".join(parts), "w", encoding="ascii") as file:
        file.write(value)


def main(settings: list[str]) -> int:
    """Enter the container's network namespace and do both."""
    pid = int(json.load(sys.stdin)["pid"])
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
        sys.stderr.write(f"network hook: namespace of {pid}: {os.strerror(ctypes.get_errno())}\n")
        return 0
    work = [(bring_up, "lo"), *((set_sysctl, setting) for setting in settings)]
    for function, argument in work:
        try:
            function(argument)
        except (OSError, ValueError) as problem:
            sys.stderr.write(f"network hook: {argument}: {problem}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
