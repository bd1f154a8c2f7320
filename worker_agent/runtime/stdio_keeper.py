"""Keeps what a job writes to stdout and stderr: reads its pipes, appends to the log files, forwards to the old readers.

    python3 -I -S stdio_keeper.py LOG_FOLDER CONTROL_SOCKET STDOUT_PIPE STDERR_PIPE SYNC

One process per protected container, outside its cgroup, standard library only, Python 3.9. It owns the reading ends of
the job's pipes (descriptor numbers on the command line) and the two files LOG_FOLDER/stdout and LOG_FOLDER/stderr. Its
own stdout and stderr are the ones that the container engine gave the container. The files are the truth (promise 1);
forwarding follows them at the reader's pace, so that a slow reader never stops the job nor a checkpoint.

SYNC is one end of a socket pair: the keeper writes `ready` once it can take over, and begins to read when it hears `go`
or when the other end closes. Nothing that runc or CRIU say into the pipes before that is ever kept.

The control socket answers one JSON line to one command line:

    drain    read until both pipes are empty; {"stdout": bytes, "stderr": bytes}, the lengths of the files
    status   the same without reading
    release  the files are closed, so that the volume can be unmounted; what was not forwarded yet is kept in memory

An answer that holds "error" means that the bytes could not all be written; the lengths are then not a safe point.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import socket
import sys
import threading
import time

CHUNK = 256 * 1024
"""Bytes moved at once."""
RETRY_SECONDS = 0.25
"""Between two tries to write to a log that refuses (volume full)."""
DRAIN_SECONDS = 10.0
"""A drain that is not over by then has a writer that is not frozen."""
LOG_PATIENCE_SECONDS = 10.0
"""How long a log may refuse after the job has ended, before its last bytes are only forwarded."""
MEMORY_LIMIT = 64 << 20
"""Bytes kept for forwarding after `release`; beyond it they are in the log file only."""


class Stream:
    """One of the two streams: pipe → file, and file → old reader on a thread of its own."""

    def __init__(self, name: str, folder: str, pipe: int, reader: int, wake: int) -> None:
        self.name = name
        self.pipe = pipe
        self.reader = reader
        self.wake = wake
        self.log = os.open(os.path.join(folder, name), os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self.log).st_size
        self.forwarded = self.size
        self.pending = b""
        self.memory = b""
        self.error = ""
        self.refused_since = 0.0
        self.eof = False
        self.reader_gone = False
        self.changed = threading.Condition()
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_NONBLOCK)

    def pull(self) -> bool:
        """Move one chunk from the pipe to the file. False when there was nothing, or the file refuses."""
        if not self.flush() or self.eof:
            return False
        try:
            data = os.read(self.pipe, CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self.eof = True
            with self.changed:
                self.changed.notify_all()
            return False
        self.pending = data
        return self.flush()

    def flush(self) -> bool:
        """Write what was read but not yet stored. A refusing log (volume full) is an error to show and to try again:
        meanwhile nothing more is read and the job's writes wait, as they would on a full pipe."""
        while self.pending:
            if self.log < 0:
                # After `release` these bytes belong to no checkpoint: the job writes them again where it is restored.
                self.pending = b""
                break
            try:
                written = os.write(self.log, self.pending)
            except OSError as problem:
                self.error = f"{self.name}: {problem.strerror}"
                self.refused_since = self.refused_since or time.monotonic()
                return False
            with self.changed:
                self.pending = self.pending[written:]
                self.size += written
                self.changed.notify_all()
        self.error = ""
        self.refused_since = 0.0
        return True

    def give_up_refusing_log(self) -> None:
        """The job is over and its volume stays full: its last bytes are forwarded and only the file lacks them."""
        patience_over = self.refused_since and time.monotonic() - self.refused_since > LOG_PATIENCE_SECONDS
        if self.pending and self.at_hang_up() and patience_over:
            rest = self.pending
            with contextlib.suppress(BlockingIOError):
                while len(rest) < MEMORY_LIMIT:
                    data = os.read(self.pipe, CHUNK)
                    if not data:
                        break
                    rest += data
            with self.changed:
                self.pending = b""
                self.memory += rest
                self.eof = True
                self.changed.notify_all()

    def at_hang_up(self) -> bool:
        """No process has the writing end any more (bytes may still be in the pipe)."""
        if self.eof:
            return True
        poll = select.poll()
        poll.register(self.pipe, 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def close_log(self) -> None:
        """Let go of the job root; up to MEMORY_LIMIT bytes that the reader has not taken yet stay in memory."""
        with self.changed:
            if self.log < 0:
                return
            rest = bytearray()
            while self.forwarded < self.size and len(rest) < MEMORY_LIMIT and not self.reader_gone:
                data = os.pread(self.log, CHUNK, self.forwarded)
                if not data:
                    break
                rest += data
                self.forwarded += len(data)
            self.memory = bytes(rest) + self.memory
            self.forwarded = self.size
            os.close(self.log)
            self.log = -1
            self.changed.notify_all()

    def finished(self) -> bool:
        """Nothing left to read, to store or to forward."""
        with self.changed:
            behind = self.forwarded < self.size or self.memory
            return self.eof and not self.pending and (self.reader_gone or not behind)

    def forward(self) -> None:
        """The thread: hand the file's new bytes to the old reader until the end, or until the reader is gone.

        Blocking writes, because the descriptor is shared with the container engine: making it non-blocking would
        change it for others too.
        """
        while True:
            with self.changed:
                while self.forwarded >= self.size and not self.memory and not self.eof:
                    self.changed.wait()
                if self.forwarded >= self.size and not self.memory and self.eof and not self.pending:
                    break
                data, from_memory = self._next_bytes()
            if not data:
                time.sleep(RETRY_SECONDS)
                continue
            try:
                written = os.write(self.reader, data)
            except OSError as problem:
                if problem.errno in (errno.EAGAIN, errno.EINTR):
                    time.sleep(RETRY_SECONDS)
                    continue
                with self.changed:
                    self.reader_gone = True
                break
            with self.changed:
                self._advance(written, from_memory)
        os.write(self.wake, b"x")

    def _next_bytes(self) -> tuple[bytes, bool]:
        if self.log >= 0 and self.forwarded < self.size:
            try:
                return os.pread(self.log, min(CHUNK, self.size - self.forwarded), self.forwarded), False
            except OSError:
                return b"", False
        return self.memory[:CHUNK], True

    def _advance(self, written: int, from_memory: bool) -> None:
        # `release` may have moved the rest of the file, these bytes included, to memory while they were written.
        if from_memory or self.log < 0:
            self.memory = self.memory[written:]
        else:
            self.forwarded += written


class Keeper:
    """The loop over both pipes and the control socket."""

    def __init__(self, folder: str, control: str, pipes: tuple[int, int]) -> None:
        self.woken, wake = os.pipe()
        os.set_blocking(self.woken, False)
        self.streams = [
            Stream("stdout", folder, pipes[0], 1, wake),
            Stream("stderr", folder, pipes[1], 2, wake),
        ]
        self.listener = _listen(control)
        self.clients: dict[int, socket.socket] = {}

    def run(self) -> None:
        """Until both pipes have ended and everything is stored and forwarded."""
        for stream in self.streams:
            threading.Thread(target=stream.forward, daemon=True).start()
        while not all(stream.finished() for stream in self.streams):
            for descriptor in self._wait():
                if descriptor == self.listener.fileno():
                    self._accept()
                elif descriptor in self.clients:
                    self._serve(descriptor)
            for stream in self.streams:
                stream.pull()
                stream.give_up_refusing_log()
        for stream in self.streams:
            stream.close_log()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self.listener.accept()
            client.settimeout(1.0)
            self.clients[client.fileno()] = client

    def _wait(self) -> list[int]:
        poll = select.poll()
        watched = [self.listener.fileno(), self.woken, *self.clients]
        watched += [stream.pipe for stream in self.streams if not stream.eof and not stream.error]
        for descriptor in watched:
            poll.register(descriptor, select.POLLIN)
        refusing = any(stream.error for stream in self.streams)
        ready = [descriptor for descriptor, _ in poll.poll(RETRY_SECONDS * 1000 if refusing else None)]
        if self.woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self.woken, 64)
        return ready

    def _serve(self, descriptor: int) -> None:
        client = self.clients[descriptor]
        try:
            command = client.recv(64).decode("ascii", "replace").strip()
            if command:
                client.sendall((json.dumps(self._answer(command)) + "\n").encode("ascii"))
                return
        except OSError:
            pass
        del self.clients[descriptor]
        client.close()

    def _answer(self, command: str) -> dict[str, object]:
        problem = ""
        if command == "drain":
            problem = self._drain()
        elif command == "release":
            problem = self._drain()
            for stream in self.streams:
                stream.close_log()
        elif command != "status":
            problem = "unknown command"
        answer: dict[str, object] = {stream.name: stream.size for stream in self.streams}
        problem = problem or "; ".join(stream.error for stream in self.streams if stream.error)
        if problem:
            answer["error"] = problem
        return answer

    def _drain(self) -> str:
        deadline = time.monotonic() + DRAIN_SECONDS
        while any([stream.pull() for stream in self.streams]):
            if time.monotonic() > deadline:
                return "the pipes do not run empty: something still writes"
        return ""


def _listen(path: str) -> socket.socket:
    # By its bare name from inside its folder: a socket's address holds 107 bytes, and a container's id takes 64.
    os.chdir(os.path.dirname(path))
    name = os.path.basename(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(name)
    os.chmod(name, 0o600)
    os.chdir("/")
    listener.listen(8)
    return listener


def _stay_alive() -> None:
    """The job dies of SIGPIPE when its keeper dies, so the keeper lives exactly as long as the job's pipes."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        # Refused without CAP_SYS_RESOURCE: then the keeper is as likely a victim as its parent was.
        score.write("-900")
    with contextlib.suppress(PermissionError):
        os.setsid()  # refused when the starter has already made this a session of its own
    os.umask(0o077)


def main(argv: list[str]) -> int:
    """Run until the job's pipes end. 2 on a wrong command line, 1 when the logs or the socket cannot be had."""
    if len(argv) != 5:
        sys.stderr.write(__doc__)
        return 2
    folder, control = argv[0], argv[1]
    out_pipe, err_pipe, sync = (int(number) for number in argv[2:])
    try:
        _stay_alive()
        keeper = Keeper(folder, control, (out_pipe, err_pipe))
    except OSError as problem:
        os.write(sync, f"error {problem}\n".encode("utf-8", "replace"))
        return 1
    with contextlib.suppress(ConnectionError):  # the runtime may have given up, or died, meanwhile
        os.write(sync, b"ready\n")
        os.read(sync, 8)
    os.close(sync)
    keeper.run()
    # No socket says: the job closed both streams, and all it wrote is in the files. A keeper that was killed leaves it.
    with contextlib.suppress(OSError):
        os.unlink(control)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
