"""A file system in user space with the manners of a network's: `python network.py SOURCE MOUNTPOINT ordinary|strict`.

It shows a folder in another place, with what sets network file systems apart: no hard links; folders that cannot be
synced; a file that is removed while it is open lives on under a hidden name, so that its folder cannot be removed
(libfuse's .fuse_hidden, NFS's .nfs). The strict one has no locks and does not map files into shared memory either.
Needs fusepy and libfuse 2.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

from fuse import FUSE, FuseOSError, Operations


class Network(Operations):
    """Whatever is asked of it is asked of the folder below."""

    def __init__(self, source: str) -> None:
        self._source = source

    def _at(self, path: str) -> str:
        return self._source + path

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        status = os.lstat(self._at(path))
        return {name: getattr(status, name) for name in dir(status) if name.startswith("st_")}

    def access(self, path: str, mode: int) -> None:
        if not os.access(self._at(path), mode):
            raise FuseOSError(errno.EACCES)

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._at(path))]

    def statfs(self, path: str) -> dict[str, int]:
        room = os.statvfs(self._at(path))
        return {name: getattr(room, name) for name in dir(room) if name.startswith("f_")}

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags & ~os.O_APPEND)

    def create(self, path: str, mode: int, fi: Any = None) -> int:
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._at(path), length)

    def utimens(self, path: str, times: tuple[float, float] | None = None) -> None:
        os.utime(self._at(path), times)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(self._at(path), uid, gid)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._at(path), mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def rename(self, old: str, new: str) -> None:
        os.rename(self._at(old), self._at(new))

    def link(self, target: str, source: str) -> None:
        raise FuseOSError(errno.EPERM)

    def fsync(self, path: str, datasync: int, fh: int) -> None:
        os.fsync(fh)

    def fsyncdir(self, path: str, datasync: int, fh: int) -> None:
        raise FuseOSError(errno.EINVAL)

    def release(self, path: str, fh: int) -> None:
        os.close(fh)


class Strict(Network):
    """Without locks, as where no daemon for them runs."""

    def lock(self, path: str, fh: int, cmd: int, lock: Any) -> None:
        raise FuseOSError(errno.ENOLCK)


if __name__ == "__main__":
    source, mountpoint, kind = sys.argv[1:]
    strict = kind == "strict"
    system = Strict(source) if strict else Network(source)
    FUSE(system, mountpoint, foreground=True, direct_io=strict, nothreads=True, use_ino=True)
