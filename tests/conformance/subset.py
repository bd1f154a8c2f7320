"""The part of CRIU's tests that runs with every `make test`: one or more of each kind, and what is known to fail."""

from __future__ import annotations

from dataclasses import dataclass

from tests.conformance.courses import Outcome

KINDS = {
    "files": "write_read00 unlink_fstat00 unlink_fstat03 aio00 file_shared fdt_shared link10 file_attr cwd00",
    "locks and leases": "file_locks00 file_locks06 file_lease00",
    "mappings": "maps00 maps02 maps04 mprotect00 mtime_mmap unlink_mmap00 cow00",
    "shared memory": "shm-mp memfd00 memfd02",
    "System V": "shm sem msgque",
    "pipes and fifos": "pipe00 pipe02 fifo fifo_wronly",
    "event descriptors": "eventfs00 epoll signalfd00 timerfd",
    "watches": "inotify04",
    "terminals": "pty00 pty01 tty02",
    "unix sockets": "sockets00 sockets_dgram sockets_spair_seqpacket socket_queues sk-unix-listen01 scm00 scm03",
    "network": "socket-tcp-local socket-tcp6-local socket_listen socket_udp packet_sock",
    "timers": "timers posix_timers pthread_timers_h",
    "signals": "sigpending sigaltstack stopped",
    "processes": "wait00 zombie00 pstree session00 pidfd_child proc-self child_subreaper caps00 rlimits00 umask00",
    "threads": "pthread00 pthread01 futex rseq00 membarrier",
    "processor state": "fpu00 sse00 vdso00",
    "cgroup": "oom_score_adj",
}
"""Tests that pass, by kind."""


@dataclass(frozen=True)
class Known:
    """What a test does today, and what is said of it."""

    outcome: Outcome
    words: str
    """A regular expression for what the product (or the test) says."""
    reason: str


KNOWN = {
    "socket_udp-corked": Known(Outcome.REFUSED, "middle of sending", "CRIU cannot save a datagram that is being made"),
    "file_lease02": Known(Outcome.FAIL, "Ghost signal", "CRIU lets the break of a lease signal twice"),
}
"""Tests that do not pass. One that does is to be taken out of this list."""

PASSING = sorted(name for names in KINDS.values() for name in names.split())
