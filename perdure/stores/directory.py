"""A store in a directory that all nodes share: EFS, FSx, NFS, JuiceFS.

Others may be able to write that directory, and we are root: no symbolic link in it is ever followed. Each folder on the
way is opened by its own descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from perdure.domain.errors import ObjectExists, ObjectMissing, StoreFailed, StoreRefused, StoreUnavailable
from perdure.stores.meter import Meter
from perdure.stores.objects import Content, Listed, Objects, check_key, check_prefix

_UNFINISHED = ".new"
"""Folder of objects that are being written; a key never begins with a dot."""
_ABANDONED = 86_400.0
"""Seconds after which an unfinished object is nobody's any more."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASSES = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EHOSTDOWN, errno.EREMOTEIO}
"""What a network file system says while its server is away; a time later the same call may succeed."""
_NONE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}


class DirectoryObjects(Objects):
    """Objects as files below `root`, which must exist: an unmounted share must not be taken for an empty store."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def place(self) -> str:
        return str(self._root)

    def counted_by(self, meter: Meter) -> DirectoryObjects:
        meter.store = "directory"  # nobody bills its requests one by one
        return self

    def put(self, key: str, content: Content) -> None:
        with (
            self._translated(key),
            self._written(content) as (unfinished, name),
            self._folder(key, make=True) as folder,
        ):
            os.rename(name, _name(key), src_dir_fd=unfinished, dst_dir_fd=folder)
            os.fsync(folder)

    def put_new(self, key: str, content: Content) -> None:
        with (
            self._translated(key),
            self._written(content) as (unfinished, name),
            self._folder(key, make=True) as folder,
        ):
            try:
                os.link(name, _name(key), src_dir_fd=unfinished, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError as error:
                raise ObjectExists(f"{self._root / key} exists already") from error
            os.fsync(folder)

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        with self._translated(key), self._folder(key) as folder:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with open(os.open(_name(key), flags, dir_fd=folder), "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise ObjectMissing(f"{self._root / key} is no file")
                left = max(0, status.st_size - offset)
                content = bytearray(left if length is None else min(left, length))
                view, position = memoryview(content), 0
                while position < len(content):
                    count = os.preadv(file.fileno(), [view[position:]], offset + position)
                    if not count:
                        break
                    position += count
                return bytes(view[:position])

    def list(self, prefix: str) -> Iterator[Listed]:
        check_prefix(prefix)
        self.check()
        yield from self._below(prefix)

    def _below(self, prefix: str) -> Iterator[Listed]:
        try:
            with self._translated(prefix), self._folder(prefix + "x") as folder, os.scandir(folder) as names:
                found = []
                for item in names:
                    with contextlib.suppress(FileNotFoundError):
                        found.append((item.name, item.stat(follow_symlinks=False)))
        except ObjectMissing:
            return
        for name, status in sorted(found, key=lambda each: each[0]):
            if name.startswith("."):
                continue
            if stat.S_ISDIR(status.st_mode):
                yield from self._below(f"{prefix}{name}/")
            elif stat.S_ISREG(status.st_mode):
                yield Listed(prefix + name, status.st_size)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with contextlib.suppress(ObjectMissing), self._translated(key):
                with self._folder(key) as folder:
                    os.unlink(_name(key), dir_fd=folder)
                self._remove_empty(key)

    def _remove_empty(self, key: str) -> None:
        """Folders that hold nothing any more; another writer makes them anew."""
        folder = os.path.dirname(key)
        while folder:
            try:
                with self._folder(folder) as above:
                    os.rmdir(_name(folder), dir_fd=above)
            except OSError:
                return
            folder = os.path.dirname(folder)

    def check(self) -> None:
        with self._translated(""):
            try:
                os.close(os.open(self._root, _FOLDER))
            except OSError as error:
                if error.errno in _NONE | {errno.ELOOP}:
                    said = f"{self._root} is not there: is the shared file system mounted on this machine?"
                    raise StoreRefused(said) from error
                raise

    def tidy(self) -> int:
        """Delete what was being written a day ago by somebody who never finished; how many."""
        count = 0
        with self._translated(_UNFINISHED), contextlib.suppress(FileNotFoundError):
            for item in list(os.scandir(self._root / _UNFINISHED)):
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - item.stat(follow_symlinks=False).st_mtime > _ABANDONED:
                        os.unlink(item.path)
                        count += 1
        return count

    @contextlib.contextmanager
    def _written(self, content: Content) -> Iterator[tuple[int, str]]:
        """The content in a file of its own, durable: its folder's descriptor and its name. It is gone afterwards."""
        self.check()
        name = secrets.token_hex(16)
        with self._opened(os.open(self._root, _FOLDER)) as root:
            with contextlib.suppress(FileExistsError):
                os.mkdir(_UNFINISHED, 0o700, dir_fd=root)
            with self._opened(os.open(_UNFINISHED, _FOLDER, dir_fd=root)) as folder:
                try:
                    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                    with open(os.open(name, flags, 0o600, dir_fd=folder), "wb", buffering=0) as file:
                        view = memoryview(content)
                        while view:
                            view = view[file.write(view) :]
                        os.fsync(file.fileno())
                    yield folder, name
                finally:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=folder)

    @contextlib.contextmanager
    def _folder(self, key: str, *, make: bool = False) -> Iterator[int]:
        """The folder in which the key's last word lies, reached without following any link."""
        *words, _ = check_key(key).split("/")
        with contextlib.ExitStack() as opened:
            folder = opened.enter_context(self._opened(os.open(self._root, _FOLDER)))
            for word in words:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(word, 0o700, dir_fd=folder)
                folder = opened.enter_context(self._opened(os.open(word, _FOLDER, dir_fd=folder)))
            yield folder

    @staticmethod
    @contextlib.contextmanager
    def _opened(descriptor: int) -> Iterator[int]:
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        """OSErrors as errors of a store."""
        try:
            yield
        except OSError as error:
            raise self._error(key, error) from error

    def _error(self, key: str, error: OSError) -> StoreFailed:
        path = self._root / key
        if error.errno in _NONE:
            return ObjectMissing(f"{path} does not exist")
        if error.errno in _PASSES:
            return StoreUnavailable(f"{path}: the shared file system answered {error.strerror}")
        if error.errno == errno.ELOOP:
            return StoreRefused(f"{path}: there is a symbolic link on the way, and none is followed in a store")
        return StoreRefused(f"{path}: {error.strerror}")


def _name(key: str) -> str:
    return key.rpartition("/")[2]
