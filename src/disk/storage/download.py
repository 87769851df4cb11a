"""Downloads over HTTP that resume after an interruption and are verified before the file gets its name."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any, Literal

from disk.errors import DownloadError
from disk.progress import log, progress_bar
from disk.storage.new_file import put_in_place

_BLOCK = 1 << 20
_TIMEOUT = 60.0  # seconds without a byte
_SLOWEST = 1000  # bytes per second, averaged over more than _TIMEOUT
MOST = 100 << 30  # bytes, far more than any file fetched here: a server could send without end
_MOST_TEXT = 16 << 20


def download(url: str, target: Path, *, check: Callable[[Path], bool], description: str, most: int = MOST) -> Path:
    """Download `url` to `target` and return it; a target that already passes `check` is kept.

    The bytes go to `<target>.part`, which a later call resumes; the file gets its name only after it passes `check`. A
    resumed file that fails is downloaded once more from the start. A second process that wants the same file waits for
    the first.
    check: whether a file is complete and correct
    description: of the file, for messages
    most: maximum size in bytes

    Raises DownloadError if the server cannot be reached, refuses, breaks off, is too slow, sends another file or more
    than `most` bytes, if the file cannot be written, and if DISK_OFFLINE is set.
    """
    if target.is_file():
        if check(target):
            return target
        log.warning("%s is damaged or another file; downloading it again", target)
    if _offline():
        raise DownloadError(f"{target} is missing and DISK_OFFLINE is set; unset it, or get the file from {url}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            if target.is_file() and check(target):  # another process has fetched it
                return target
            log.info("downloading %s from %s to %s", description, url, target)
            return _fetch(url, target, check, description, most)
    except OSError as error:
        raise DownloadError(f"cannot write {target}: {error.strerror or error}") from error


def _fetch(url: str, target: Path, check: Callable[[Path], bool], description: str, most: int) -> Path:
    part = target.with_name(target.name + ".part")
    continued = _size(part) > 0
    while True:
        _fetch_to_the_end(url, part, description, most)
        if check(part):
            put_in_place(part, target)
            return target
        part.unlink()
        if not continued:
            raise DownloadError(f"{url}: the downloaded file does not have the expected checksum; it was deleted")
        log.warning("%s: the resumed file does not have the expected checksum; downloading it from the start", url)
        continued = False


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold a lock beside the file, after waiting for the process that has it."""
    from filelock import FileLock, Timeout

    path = target.with_name(f".{target.name}.lock")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process is downloading %s; waiting for it", target)
        lock.acquire()
    try:
        yield
        # a process that waits for this lock, or makes a new one, finds the target; Windows cannot delete an open file
        with contextlib.suppress(PermissionError):
            path.unlink(missing_ok=True)
    finally:
        lock.release()


def _offline() -> bool:
    return os.environ.get("DISK_OFFLINE", "").lower() not in ("", "0", "false", "no")


def fetch_text(url: str) -> str:
    """The text of a small file on a server. Raises DownloadError."""
    with _open(url, 0) as response:
        try:
            content = response.read(_MOST_TEXT + 1)
            if len(content) > _MOST_TEXT:
                raise DownloadError(f"{url}: the server sends more than {_MOST_TEXT} bytes, not the list wanted")
            return content.decode("utf-8", errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise DownloadError(f"{url}: the connection broke off ({error}); run the command again") from error


def file_hash(path: Path, kind: Literal["md5", "sha256", "git"]) -> str:
    """Checksum of a file in hex; "git" is the id of a git blob, sha1 of `blob <size>\\0` and the bytes."""
    digest = hashlib.sha1(b"blob %d\0" % _size(path)) if kind == "git" else hashlib.new(kind)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _fetch_to_the_end(url: str, part: Path, description: str, most: int) -> None:
    """Append to `part` until it is complete; reconnects after an interruption as long as bytes arrive."""
    while True:
        start = _size(part)
        done, total = _fetch_once(url, part, description, most)
        if done:
            return
        if _size(part) <= start:
            of = f" of {total}" if total else ""
            message = f"{url}: the connection broke off after {_size(part)}{of} bytes; run the command again"
            raise DownloadError(f"{message} to continue")


def _fetch_once(url: str, part: Path, description: str, most: int) -> tuple[bool, int | None]:
    """Request the rest of `part` once. Returns whether it is complete, and the size of the whole file."""
    start = _size(part)
    try:
        response = _open(url, start)
    except _NothingLeft as error:
        if error.total == start:
            return True, start
        part.unlink()  # longer than the file on the server: a leftover of another file
        return _fetch_once(url, part, description, most)
    with response:
        if response.status != 206:
            start = 0  # the server sends the whole file again
        total = None if response.length is None else start + response.length
        if total is not None and total > most:
            raise DownloadError(f"{url}: the server announces more than {most} bytes, which is not the file wanted")
        begun, got = monotonic(), 0
        bar = progress_bar(description, "B", total, initial=start)
        with open(part, "ab" if start else "wb") as file, bar:
            while block := _read(response):
                file.write(block)
                bar.update(len(block))
                got += len(block)
                seconds = monotonic() - begun
                if seconds > _TIMEOUT and got < _SLOWEST * seconds:
                    raise DownloadError(f"{url}: the server sends only {got / seconds:.0f} bytes/s; try again later")
                if start + got > most:
                    file.truncate(0)
                    raise DownloadError(f"{url}: the server sends more than {most} bytes, which is not the file wanted")
    return total is None or _size(part) >= total, total


def _open(url: str, start: int) -> http.client.HTTPResponse:
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url}: not an http or https address")
    if _offline():
        raise DownloadError(f"{url} cannot be fetched: DISK_OFFLINE is set")
    headers = {"User-Agent": "disk-features"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = _OPENER.open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:
            size = re.fullmatch(r"bytes \*/(\d{1,18})", error.headers.get("Content-Range", ""))
            raise _NothingLeft(int(size[1]) if size else None) from error
        raise DownloadError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(f"{url}: cannot be reached ({reason}); check the address and the network") from error
    if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        raise DownloadError(f"{url}: the server sends a different part of the file than requested")
    return response


class _SameSafety(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and never from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        allowed = ("https://",) if req.full_url.startswith("https://") else ("https://", "http://")
        if not newurl.lower().startswith(allowed):
            raise DownloadError(f"{req.full_url}: the server redirects to {newurl[:200]}, which is refused as unsafe")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SameSafety)


def _read(response: http.client.HTTPResponse) -> bytes:
    """The next block; empty at the end and if the connection breaks, which the size tells apart."""
    try:
        return response.read1(_BLOCK)
    except (OSError, http.client.HTTPException):
        return b""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _NothingLeft(Exception):
    """The server has no bytes after those already downloaded; `total` is the size of its file, if known."""

    def __init__(self, total: int | None) -> None:
        self.total = total
