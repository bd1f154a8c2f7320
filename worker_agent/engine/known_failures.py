"""The table of known failures: what CRIU, runc and the kernel say, what it means, what helps, and whose fault it is.

Each row was seen in a real log of ours, in an issue of CRIU, runc or podman, or stands in CRIU's source (4.2). Within
one line the first row that matches counts, so the particular rows come before the general. What a row says is true
whatever is done next: who decides that (another node, an older checkpoint, a clean start) says it.
"""

from __future__ import annotations

from enum import StrEnum


class Blame(StrEnum):
    """Whose fault a failure is."""

    JOB = "job"
    """The job holds something, or does something, that cannot be saved."""
    MOMENT = "moment"
    """The same may work in a moment."""
    NODE = "node"
    """Another node may do better; nothing is wrong with job or checkpoint."""
    MEMORY = "memory"
    """The node's, if it really is short of memory: a mangled image may ask for impossible amounts."""
    IMAGE = "image"
    """It is in the checkpoint: no node can restore it."""
    UNCLEAR = "unclear"
    """It may be the node's or the checkpoint's."""


_JOB, _NODE, _LATER, _MEMORY = Blame.JOB, Blame.NODE, Blame.MOMENT, Blame.MEMORY
_IMAGE, _UNCLEAR = Blame.IMAGE, Blame.UNCLEAR
_IO_URING_FIX = "Leave io_uring refused (PERDURE_REFUSE_IO_URING, on by default), or turn it off in the program."
_TERMINAL_FIX = "Run the container without a terminal (no `tty` in the job definition, no -t)."
_SAME_IMAGE = "Run the job on the very same image (pin its digest)."
_PASSES = "This passes by itself, as a rule."

TABLE: tuple[tuple[str, str, str, Blame], ...] = (
    # ---- what a job holds (dumps)
    (
        r"send_fds failed \(-22\)|Can't retrieve FDs from socket|anon_inode:\[io_uring\]",
        "it has an io_uring ring open, which cannot be saved",
        _IO_URING_FIX,
        _JOB,
    ),
    (
        r"anon_inode:\[userfaultfd\]",
        "it has a userfaultfd open, which cannot be saved",
        "Turn that feature off.",
        _JOB,
    ),
    (
        r"anon_inode:\[perf_event\]",
        "it has a performance counter open, which cannot be saved",
        "Do not profile the job from inside.",
        _JOB,
    ),
    (
        r"anon_inode:\[?(?:bpf|btf)|dumping BPF map type",
        "it has an eBPF object open, which cannot be saved",
        "Load eBPF programs from outside the container.",
        _JOB,
    ),
    (
        r"\(chr 10:232\)",
        "it runs a virtual machine (KVM), which cannot be saved",
        "Such a job cannot be protected.",
        _JOB,
    ),
    (
        r"\(chr 10:229\)|is a fuse mount but not external",
        "it serves a file system itself (FUSE), which cannot be saved",
        "Mount it on the instance and bind it into the container, declared shared.",
        _JOB,
    ),
    (
        r"\(chr (?:195|507|508|509|510|511):\d+\)|/dev/nvidia",
        "it uses a GPU, and GPU support is off or cannot save it",
        "Turn it on (PERDURE_GPU=true on the agent; unverified), with driver 570 or newer.",
        _JOB,
    ),
    (
        r"Net namespace is required to dump tun",
        "it has a tunnel open (tun)",
        "Make tunnels on the instance.",
        _JOB,
    ),
    (
        r"Can't dump file (\d+) of that type \[\d+\] \(\w+ ([^)\s]+)",
        "it has {2} open (descriptor {1}), which cannot be saved",
        "Close it, or do that work outside the job.",
        _JOB,
    ),
    (
        r"Can't handle non-regular mapping|VMA_UNSUPP|[Uu]nsupported VMA",
        "it has a device mapped into its memory, which cannot be saved",
        "Do that work outside the job.",
        _JOB,
    ),
    (
        r"has uprobes vma",
        "it is watched by user-space probes (uprobes)",
        "End the tracing of the job's programs.",
        _JOB,
    ),
    (
        r"Unsupported proto 262",
        "it has a multipath TCP socket open, which cannot be saved",
        "Turn multipath TCP off (Go programs: GODEBUG=multipathtcp=0).",
        _JOB,
    ),
    (
        r"Unsupported proto (\d+)|Unknown socket collected \(family (\d+)\)|Can't dump \d+ inet socket",
        "it has a socket open of a kind that cannot be saved",
        "Use TCP, UDP or unix sockets.",
        _JOB,
    ),
    (
        r"packetized mode for pipes",
        "it has a pipe open that keeps packets apart (O_DIRECT)",
        "Open the pipe without O_DIRECT.",
        _JOB,
    ),
    (
        r"mqueue isn't empty",
        "it has a POSIX message queue, which cannot be saved",
        "Unlink the queue when it is not used, or use a unix socket or a fifo.",
        _JOB,
    ),
    (
        r"half of stream unix connection|name-less external socket|External socket is used|Dangling connection"
        r"|with unreachable peer|without peer",
        "it is connected through a unix socket to a program outside the container",
        "Do without that connection, or connect by TCP.",
        _JOB,
    ),
    (
        r"Can't dump nested (\w+) namespace",
        "it runs a container or sandbox of its own inside the job's ({1} namespace)",
        "Run the program without the inner container or sandbox.",
        _JOB,
    ),
    (
        r"Can't dump ghost file (.+?) of (\d+) size",
        "it has a deleted file open that is too large to be saved ({1}, {2} bytes)",
        "Keep the file's name until it is closed.",
        _JOB,
    ),
    (
        r"Can't lookup mount=\S* for fd=\S* path=/dev/(?:pts/|ptmx|tty|console)|Found dangling tty",
        "it has a terminal open whose other end is outside the container",
        _TERMINAL_FIX,
        _JOB,
    ),
    (
        r"Can't lookup mount=\S* for fd=\S* path=(/[^/\s;]+)(?:[;\s]|$)",
        "it has a POSIX message queue open, or a file outside its own mounts ({1})",
        "Use a unix socket or a fifo instead of the queue.",
        _JOB,
    ),
    (
        r"Can't lookup mount=\S* for fd=\S* path=(\S+)|Unaccessible path opened",
        "it has a file open from outside its own mounts",
        "Let the container open it by a path of its own; output belongs on stdout and stderr.",
        _JOB,
    ),
    (
        r"FS mnt (\S+) dev \S+ root .* unsupported",
        "a file system was mounted inside the container, of a kind that could not be mounted again ({1})",
        "Unpack or copy what is in it, or mount it on the instance and bind it in, declared shared.",
        _JOB,
    ),
    (
        r"Can't create memfd in victim: Too many open files",
        "a process of it has all the descriptors open that it may have (ulimit -n), and one more is needed to save it",
        "Raise its limit, or close some.",
        _JOB,
    ),
    (
        r"/secretmem",
        "it has secret memory (memfd_secret), which nobody else can read",
        "Turn that feature off.",
        _JOB,
    ),
    (
        r"Unable too cut (\S+) from",
        "it has a unix socket with a relative name that its path does not end with ({1})",
        "Bind it by its whole path.",
        _JOB,
    ),
    (
        r"on overmounted mounts are not supported",
        "it has a file open on a mount that another mount hides",
        "Mount once.",
        _JOB,
    ),
    (
        r"fsnotify:\s+Can't dump that handle|Can't find suitable path for handle",
        "it watches a file (inotify, fanotify) that has lost its name, or whose name was not found",
        "Watch files while they keep their names, or poll.",
        _JOB,
    ),
    (
        r"the (\d+) thread with a pending SIGTRAP",
        "a debugger's trap (SIGTRAP) waits for it, which cannot be saved",
        "Do not send SIGTRAP inside the job; take debuggers away.",
        _JOB,
    ),
    (
        r"PIDFD_THREAD flag is currently not supported",
        "it has a descriptor of a thread open (pidfd_open with PIDFD_THREAD), which cannot be saved",
        "Use a descriptor of the process.",
        _JOB,
    ),
    (
        r"Non-empty write queue on an in-flight socket|Found a closed in-flight socket",
        "a unix socket of it listens, and a client that it has not accepted yet has sent something or is gone",
        f"Let the server accept its clients soon. {_PASSES}",
        _LATER,
    ),
    (
        r"Control messages in queue, not supported",
        "a message that carries its sender's credentials (SO_PASSCRED) waits in a unix socket of it",
        f"Let the receiver read soon. {_PASSES}",
        _LATER,
    ),
    (
        r"Unable to dump more than one netns",
        "it has made a network namespace of its own inside the container's",
        "Run the program without the inner network namespace.",
        _JOB,
    ),
    (
        r"Can't create link remap|link remap",
        "it has a file open that lost its name but has others",
        "Keep the name by which the file was opened.",
        _JOB,
    ),
    (
        r"Can't make (?:VM|FS|SIGHAND) id",
        "a process shares with another what only threads may share (clone with CLONE_VM, CLONE_FS or CLONE_SIGHAND)",
        "Use threads, or processes that share memory by mmap.",
        _JOB,
    ),
    (
        r"Unable to convert the notify thread id",
        "a POSIX timer of it signals a thread that has ended",
        "Delete the timer when its thread ends.",
        _JOB,
    ),
    (
        r"Dump eventpoll|Can't find .*tfd|epoll.*target",
        "it has an epoll set with descriptors in it that only another process has",
        "Let each process have a set of its own.",
        _JOB,
    ),
    (
        r"File name too long",
        "it has files whose names or paths are longer than Linux lets programs say (255 and 4,096 bytes)",
        "Use fewer or shorter folders.",
        _JOB,
    ),
    (r"doesn't live in IPC ns", "it shares the machine's System V memory", "Do not use `ipcMode: host`.", _JOB),
    (
        r"session leader of (\S+) is outside of its pid namespace",
        "a process of it was started from outside the container (exec) and left behind",
        "Start such helpers from the job's own program.",
        _JOB,
    ),
    (
        r"Individually stopped threads",
        "single threads of it are stopped",
        "Continue or stop the whole process.",
        _JOB,
    ),
    (
        r"Timeout reached",
        "a process of it did not come to a stand: it is traced, waits in a vfork, or hangs in the kernel (a network "
        "file system that does not answer?)",
        f"Detach debuggers. {_PASSES}",
        _LATER,
    ),
    (
        r"[Uu]nable to freeze|freezer.*(?:timeout|FREEZING)|cannot freeze",
        "the container did not freeze: a process hangs in the kernel (a network file system that does not answer?)",
        _PASSES,
        _LATER,
    ),
    (r"In-flight connection", "a connection to it was just being made", _PASSES, _LATER),
    (r"Can't dump corked dgram|The socket has data to read", "it was in the middle of sending", _PASSES, _LATER),
    (
        r"zombie .* found while seizing|Zombie thread|Zombies with threads|wait4 failed|Name resolved on unconnected",
        "something of it was just ending",
        _PASSES,
        _LATER,
    ),
    (
        r"Unseizable non-zombie|SEIZE \d+: (?:task not stopped|can't)|Task pid reused|Waited pid mismatch"
        r"|Task is still running",
        "a process of it could not be held still: it was just ending, or a debugger has it",
        f"Detach debuggers. {_PASSES}",
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
        r"inet socket.*: Address already in use|inet:.*: Address already in use",
        "a port that the job listens on is taken on this node",
        "Give each job a network of its own (own_network), or other ports.",
        _NODE,
    ),
    (
        r"Cannot assign requested address|Network is unreachable|Can't (?:bind|connect) inet socket back",
        "the network of this node does not fit the job's connections",
        "Give all nodes the same kinds of addresses (IPv4, IPv6).",
        _NODE,
    ),
    (
        r"Can't fork for (\d+): File exists|do not match expected|Pid \d+ .* is already used",
        "process number {1} that the job needs is taken in the container",
        "",
        _UNCLEAR,
    ),
    (
        r"Can't remount .* with MS_PRIVATE",
        "the container engine's init program is a symbolic link, which cannot be mounted again",
        "Set dockerd's --init-path to the program itself (/usr/bin/tini-static).",
        _NODE,
    ),
    (
        r"(?:tar|gzip).*: (?:not found|No such file or directory)$",
        "the programs that pack temporary file systems (tar, gzip) are missing on this node",
        "Run set-up on the node again.",
        _NODE,
    ),
    (
        r"Can't stat mountpoint .*pts|Can't restore tmpfs content|Can't dump tmpfs content|tar: ",
        "a temporary file system could not be packed or unpacked",
        "The programs for that (tar, gzip) must be the same on all nodes: run set-up there again.",
        _UNCLEAR,
    ),
    (
        r"given ID already exists",
        "an earlier try of this container is not cleaned up",
        "",
        _NODE,
    ),
    (
        r"No space left on device|Unable to spice data",
        "there is no space left on the job volume",
        "Use a larger job volume.",
        _NODE,
    ),
    (
        r"Cannot allocate memory|[Oo]ut of memory|Killed process|killed by signal 9\b",
        "there was not enough memory",
        "Ask for more memory in the job definition, or use larger instances.",
        _MEMORY,
    ),
    (
        r"Can't lookup cgroup|cg: .*(?:[Cc]an't|[Ff]ailed)|No such device.*cgroup",
        "the container's cgroups could not be brought back as they were",
        "Run all nodes with the same version of cgroups and the same controllers.",
        _UNCLEAR,
    ),
    (
        r"executable file not found|CRIU version check failed|criu binary not found|swrk.*No such file",
        "CRIU is not installed on this node, or cannot run",
        "Run set-up on the node again.",
        _NODE,
    ),
    (
        r"criu/(?:arch/\w+/)?cpu\.c:\d+: ",
        "this node's CPU does not fit",
        "Use the instance types that the job began on.",
        _NODE,
    ),
    # ---- what does not fit the checkpoint (restores)
    (
        r"Can't open file proc/\S*",
        "the job had a file of /proc open that belongs to a thread or process which does not exist yet at a restore",
        "Do not keep such files open.",
        _IMAGE,
    ),
    (
        r"Can't create posix timer",
        "a POSIX timer of the job signals its first thread (SIGEV_THREAD_ID), which CRIU 4.2 cannot restore",
        "Let it signal the process (SIGEV_SIGNAL), or another thread.",
        _IMAGE,
    ),
    (
        r"No entry for reg-file-ID",
        "a program of the job runs from memory (memfd), which cannot be restored",
        "Start it from a file.",
        _IMAGE,
    ),
    (
        r"Can't find a session leader",
        "a session of the job has lost its first process, and processes of it came from outside the job's tree",
        "Do not start programs by `docker exec` in the job's container.",
        _IMAGE,
    ),
    (
        r"Can't create inet socket: Permission denied",
        "the job has a ping socket (ICMP) open, which this node does not allow",
        "Set net.ipv4.ping_group_range on all nodes as on the one where the job began.",
        _UNCLEAR,
    ),
    (
        r"File (\S+) has bad (?:size|mode|build-ID)",
        "the file {1} is not the one that the job had open",
        _SAME_IMAGE,
        _UNCLEAR,
    ),
    (
        r"Can't open file (\S+) on restore|Can't open file (\S+?):? ",
        "a file that the job had open is missing",
        _SAME_IMAGE,
        _UNCLEAR,
    ),
    (
        r"No mapping for \S+ mountpoint|No parent found for mountpoint",
        "the container's mounts are not those that the checkpoint had",
        "Start the job with the same volumes and mounts.",
        _UNCLEAR,
    ),
    (
        r"[Mm]agic|[Uu]nexpected EOF|Img trimmed|[Cc]orrupted|Failed unpacking object|Read \d+ bytes while"
        r"|Core .* missed|Can't read pagemap|Unable to open .*\.img|No .*\.img image",
        "the checkpoint's memory image is damaged",
        "",
        _IMAGE,
    ),
)
