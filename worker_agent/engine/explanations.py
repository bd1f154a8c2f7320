"""The failure explainer: what CRIU, runc and the kernel say when something goes wrong, and what it means.

Each line of the table was seen in a real log of ours, in an issue of CRIU, runc or podman, or stands in CRIU's source
(4.2). The first line that matches counts, so the particular ones come before the general.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Explanation:
    """Why it failed and what helps, in plain words. `node_fault`: another node may do better, nothing is wrong with job
    or checkpoint. `retry_later`: the same may work in a moment."""

    cause: str
    fix: str = ""
    node_fault: bool = False
    retry_later: bool = False

    @property
    def sentence(self) -> str:
        """Both, as people read them."""
        return f"{self.cause}. {self.fix}".strip() if self.fix else self.cause


_NODE, _LATER = "node", "later"
_IO_URING_FIX = "Leave io_uring refused (PERDURE_REFUSE_IO_URING, on by default), or turn it off in the program."
_TERMINAL_FIX = "Run the container without a terminal (no `tty` in the job definition, no -t)."
_SAME_IMAGE = "Run the job on the very same image (pin its digest)."
_MOMENT = "It is tried again by the next checkpoint."

_TABLE: tuple[tuple[str, str, str, str], ...] = (
    # ---- what a job holds (dumps)
    (
        r"send_fds failed \(-22\)|Can't retrieve FDs from socket|anon_inode:\[io_uring\]",
        "it has an io_uring ring open, which cannot be saved",
        _IO_URING_FIX,
        "",
    ),
    (r"anon_inode:\[userfaultfd\]", "it has a userfaultfd open, which cannot be saved", "Turn that feature off.", ""),
    (
        r"anon_inode:\[perf_event\]",
        "it has a performance counter open, which cannot be saved",
        "Do not profile the job from inside.",
        "",
    ),
    (
        r"anon_inode:\[?(?:bpf|btf)|dumping BPF map type",
        "it has an eBPF object open, which cannot be saved",
        "Load eBPF programs from outside the container.",
        "",
    ),
    (
        r"\(chr 10:232\)",
        "it runs a virtual machine (KVM), which cannot be saved",
        "Such a job cannot be protected.",
        "",
    ),
    (
        r"\(chr 10:229\)|is a fuse mount but not external",
        "it serves a file system itself (FUSE), which cannot be saved",
        "Mount it on the instance and bind it into the container, declared shared.",
        "",
    ),
    (
        r"\(chr (?:195|507|508|509|510|511):\d+\)|/dev/nvidia",
        "it uses a GPU, and GPU support is off or cannot save it",
        "Turn it on (PERDURE_GPU=true on the agent; unverified), with driver 570 or newer.",
        "",
    ),
    (r"Net namespace is required to dump tun", "it has a tunnel open (tun)", "Make tunnels on the instance.", ""),
    (
        r"Can't dump file (\d+) of that type \[\d+\] \(\w+ ([^)\s]+)",
        "it has {2} open (descriptor {1}), which cannot be saved",
        "Close it, or do that work outside the job.",
        "",
    ),
    (
        r"Can't handle non-regular mapping|VMA_UNSUPP|[Uu]nsupported VMA",
        "it has a device mapped into its memory, which cannot be saved",
        "Do that work outside the job.",
        "",
    ),
    (r"has uprobes vma", "it is watched by user-space probes (uprobes)", "End the tracing of the job's programs.", ""),
    (
        r"Unsupported proto 262",
        "it has a multipath TCP socket open, which cannot be saved",
        "Turn multipath TCP off (Go programs: GODEBUG=multipathtcp=0).",
        "",
    ),
    (
        r"Unsupported proto (\d+)|Unknown socket collected \(family (\d+)\)|Can't dump \d+ inet socket",
        "it has a socket open of a kind that cannot be saved",
        "Use TCP, UDP or unix sockets.",
        "",
    ),
    (
        r"packetized mode for pipes",
        "it has a pipe open that keeps packets apart (O_DIRECT)",
        "Open the pipe without O_DIRECT.",
        "",
    ),
    (
        r"mqueue isn't empty",
        "it has a POSIX message queue, which cannot be saved",
        "Unlink the queue when it is not used, or use a unix socket or a fifo.",
        "",
    ),
    (
        r"half of stream unix connection|name-less external socket|External socket is used|Dangling connection"
        r"|with unreachable peer|without peer",
        "it is connected through a unix socket to a program outside the container",
        "Do without that connection, or connect by TCP.",
        "",
    ),
    (
        r"Can't dump nested (\w+) namespace",
        "it runs a container or sandbox of its own inside the job's ({1} namespace)",
        "Run the program without the inner container or sandbox.",
        "",
    ),
    (
        r"Can't dump ghost file (.+?) of (\d+) size",
        "it has a deleted file open that is too large to be saved ({1}, {2} bytes)",
        "Keep the file's name until it is closed.",
        "",
    ),
    (
        r"Can't lookup mount=\S* for fd=\S* path=/dev/(?:pts/|ptmx|tty|console)|Found dangling tty",
        "it has a terminal open whose other end is outside the container",
        _TERMINAL_FIX,
        "",
    ),
    (
        r"Can't lookup mount=\S* for fd=\S* path=(/[^/\s;]+)(?:[;\s]|$)",
        "it has a POSIX message queue open, or a file outside its own mounts ({1})",
        "Use a unix socket or a fifo instead of the queue.",
        "",
    ),
    (
        r"Can't lookup mount=\S* for fd=\S* path=(\S+)|Unaccessible path opened",
        "it has a file open from outside its own mounts",
        "Let the container open it by a path of its own; output belongs on stdout and stderr.",
        "",
    ),
    (
        r"on overmounted mounts are not supported",
        "it has a file open on a mount that another mount hides",
        "Mount once.",
        "",
    ),
    (
        r"fsnotify: Can't dump that handle|Can't find suitable path for handle",
        "it watches files (inotify) on a file system where they cannot be found again",
        "Watch files below /tmp or the job volume, or poll.",
        "",
    ),
    (
        r"Can't create link remap|link remap",
        "it has a file open that lost its name but has others",
        "Keep the name by which the file was opened.",
        "",
    ),
    (r"doesn't live in IPC ns", "it shares the machine's System V memory", "Do not use `ipcMode: host`.", ""),
    (
        r"session leader of (\S+) is outside of its pid namespace",
        "a process of it was started from outside the container (exec) and left behind",
        "Start such helpers from the job's own program.",
        "",
    ),
    (r"Individually stopped threads", "single threads of it are stopped", "Continue or stop the whole process.", ""),
    (
        r"Timeout reached",
        "a process of it did not come to a stand: it is traced, waits in a vfork, or hangs in the kernel (a network "
        "file system that does not answer?)",
        f"Detach debuggers. {_MOMENT}",
        _LATER,
    ),
    (
        r"[Uu]nable to freeze|freezer.*(?:timeout|FREEZING)|cannot freeze",
        "the container did not freeze: a process hangs in the kernel (a network file system that does not answer?)",
        _MOMENT,
        _LATER,
    ),
    (r"In-flight connection", "a connection to it was just being made", _MOMENT, _LATER),
    (r"Can't dump corked dgram|The socket has data to read", "it was in the middle of sending", _MOMENT, _LATER),
    (
        r"zombie .* found while seizing|Zombie thread|Zombies with threads|wait4 failed|Name resolved on unconnected",
        "something of it was just ending",
        _MOMENT,
        _LATER,
    ),
    (
        r"no parent inventory|not found in parent|Missing .* in parent pagemap|Hole .* not found",
        "the chain of incremental checkpoints is broken",
        "The next one is a full one.",
        _LATER,
    ),
    # ---- what a node lacks (dumps and restores)
    (
        r"Can't get 1:(?:16|34) opt|has rseq but kernel lacks|Can't set FPU registers|Unsupported kernel",
        "this node's CRIU does not fit its kernel or CPU",
        "Install the CRIU that set-up pins (4.2.1).",
        _NODE,
    ),
    (
        r"CPU instruction capabilities do not match|FPU feature required by image|CPU xfeatures has unsupported"
        r"|CPU xsave (?:max )?size mismatch|CPU capabilities do not match|missing support fxsave",
        "this node's CPU lacks what the job was started with",
        "Use the instance types that `perdure nodes compatible --job ID` names.",
        _NODE,
    ),
    (
        r"Unable to connect a transport socket: Permission denied|avc:\s+denied|apparmor.*denied",
        "a security module of this node (SELinux, AppArmor) forbids it",
        "Allow it in its policy, or set it to permissive.",
        _NODE,
    ),
    (
        r"Can't [gs]et rlimit|Can't setup RLIMIT|prlimit.*not permitted",
        "root on this node may not set limits (CAP_SYS_RESOURCE is missing)",
        "Give the agent CAP_SYS_RESOURCE; on EC2 it has it.",
        _NODE,
    ),
    (
        r"Address already in use",
        "a port that the job listens on is taken on this node",
        "Another node is tried; or give each job a network of its own.",
        _NODE,
    ),
    (
        r"Cannot assign requested address|Network is unreachable|Can't (?:bind|connect) inet socket back",
        "the network of this node does not fit the job's connections",
        "Another node is tried.",
        _NODE,
    ),
    (
        r"Can't fork for (\d+): File exists|do not match expected|Pid \d+ .* is already used",
        "process number {1} that the job needs is taken in the container",
        "It is tried again once the earlier container is gone.",
        _NODE,
    ),
    (
        r"Can't remount .* with MS_PRIVATE",
        "the container engine's init program is a symbolic link, which cannot be mounted again",
        "Set dockerd's --init-path to the program itself (/usr/bin/tini-static).",
        _NODE,
    ),
    (
        r"Can't stat mountpoint .*pts|Can't restore tmpfs content|Can't dump tmpfs content|tar: ",
        "the programs that pack temporary file systems (tar, gzip) differ or are missing on this node",
        "Run set-up on the node again.",
        _NODE,
    ),
    (
        r"given ID already exists",
        "an earlier try of this container is not cleaned up",
        "It is tried again.",
        _NODE,
    ),
    (
        r"No space left on device|Unable to spice data",
        "there is no space left on the job volume",
        "Use a larger job volume.",
        _NODE,
    ),
    (
        r"Cannot allocate memory|[Oo]ut of memory|Killed process",
        "this node has not enough memory free",
        "Ask for more memory in the job definition, or use larger instances.",
        _NODE,
    ),
    (
        r"Can't lookup cgroup|cgroupd: |cg: .*(?:[Cc]an't|failed)|No such device.*cgroup",
        "the container's cgroup could not be used on this node",
        "Another node is tried.",
        _NODE,
    ),
    (
        r"executable file not found|CRIU version check failed|criu binary not found|swrk.*No such file",
        "CRIU is not installed on this node, or cannot run",
        "Run set-up on the node again.",
        _NODE,
    ),
    # ---- what does not fit the checkpoint (restores)
    (
        r"File (\S+) has bad (?:size|mode|build-ID)",
        "the file {1} is not the one that the job had open",
        _SAME_IMAGE,
        "",
    ),
    (
        r"Can't open file (\S+) on restore|Can't open file (\S+?):? ",
        "a file that the job had open is missing",
        _SAME_IMAGE,
        "",
    ),
    (
        r"No mapping for \S+ mountpoint|No parent found for mountpoint",
        "the container's mounts are not those that the checkpoint had",
        "Start the job with the same volumes and mounts.",
        "",
    ),
    (
        r"[Mm]agic|[Uu]nexpected EOF|Image corrupted|Core .* missed|Can't read pagemap|Unable to open .*\.img",
        "the checkpoint's memory image is damaged",
        "The one before is tried.",
        "",
    ),
)
_COMPILED = tuple((re.compile(pattern), cause, fix, mark) for pattern, cause, fix, mark in _TABLE)


def explain(message: str) -> Explanation | None:
    """What the words of CRIU, runc or the kernel mean; None if nobody has met them yet."""
    for pattern, cause, fix, mark in _COMPILED:
        found = pattern.search(message)
        if found:
            # A format string of ours, filled with what the log says.
            words = [found[0], *(group or "?" for group in found.groups())]
            return Explanation(cause.format(*words), fix, node_fault=mark == _NODE, retry_later=mark == _LATER)
    return None
