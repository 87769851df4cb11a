"""The authors' data set: 135 scenes of MegaDepth for training, 3 of the IMW challenge for validation, 164 GB.

The server has `md5sum.txt`, `megadepth/` and `imw2020-val/`. Both folders contain a `dataset.json` and one archive per
scene in `scenes/`; inside an archive, the scene is three folders deep.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from disk.errors import DatasetError, DiskError, PartialFailureError
from disk.progress import counted, log
from disk.storage.download import download, fetch_text, file_hash
from disk.storage.names import leads_out
from disk.storage.new_file import write_text

DISK_DATA_URL = "https://datasets.epfl.ch/disk-data"
_DEPTH = 3  # folders around a scene in its archive
_ARCHIVES = (".tar", ".tar.gz")  # unpacked and deleted
_LINKS = {"train": "megadepth", "test": "imw2020-val"}
_SMALL, _MOST_TIMES = 1 << 30, 20  # an archive may unpack to this many bytes, or this many times its size if larger
_FAILURES_IN_A_ROW = 3  # after these, the server or the disk is at fault, not a single archive


@dataclass(frozen=True)
class RemoteFile:
    """A file on the server.

    path: its path on the server.
    md5: its checksum.
    here: whether the file (or the contents of an archive) is already downloaded.
    """

    path: str
    md5: str
    here: bool


def list_files(out: Path, url: str = DISK_DATA_URL) -> list[RemoteFile]:
    """List all files in md5sum.txt on the server.

    Raises DownloadError if the server does not answer, DatasetError if the list is malformed.
    """
    files = []
    for line in fetch_text(f"{url}/md5sum.txt").splitlines():
        if not line.strip():
            continue
        md5, _, name = line.strip().partition(" ")
        path = PurePosixPath(name.strip().removeprefix("*"))
        if not re.fullmatch("[0-9a-fA-F]{32}", md5) or leads_out(str(path)):
            raise DatasetError(f"{url}/md5sum.txt: {line.strip()[:80]!r} is not a checksum and a path")
        files.append(RemoteFile(str(path), md5.lower(), _here(out, str(path), md5.lower())))
    if not files:
        raise DatasetError(f"{url}/md5sum.txt: the list is empty")
    return files


def download_disk_data(out: Path, url: str = DISK_DATA_URL) -> None:
    """Download, verify and unpack everything into `out`, and link train/ and test/. Resumes where it stopped.

    Raises DownloadError if the server does not answer, PartialFailureError at the end if some files failed.
    """
    files = list_files(out, url)
    log.info("%d of %d files are already downloaded", sum(file.here for file in files), len(files))
    missing = [file for file in files if not file.here]
    out.mkdir(parents=True, exist_ok=True)
    failures: list[str] = []
    in_a_row = 0
    for number, file in enumerate(missing, 1):
        try:
            _fetch(out, url, file, f"{number}/{len(missing)} {file.path}")
            in_a_row = 0
        except DiskError as error:
            failures.append(str(error))
            in_a_row += 1
            if in_a_row == _FAILURES_IN_A_ROW:
                break
    listed = {file.path for file in files}
    for folder in _LINKS.values():
        description = f"{folder}/dataset.json"
        if description not in listed:
            download(f"{url}/{description}", out / description, check=_is_json, description=description)
    for link, folder in _LINKS.items():
        if not os.path.lexists(out / link):
            _link(folder, out / link)
    if failures:
        raise PartialFailureError(
            f"{counted(len(failures), 'file')} failed; run the command again to continue: {'; '.join(failures)}"
        )
    log.info("ready: disk train %s", out)


def _link(folder: str, link: Path) -> None:
    try:
        os.symlink(folder, link, target_is_directory=True)
    except OSError as error:  # on Windows, symlinks need a privilege
        raise DatasetError(
            f"cannot link {link} to {folder} ({error.strerror or error}); on Windows turn on developer mode, then run "
            "the same command again; the downloaded files are kept"
        ) from error


def _fetch(out: Path, url: str, file: RemoteFile, description: str) -> None:
    target = out / file.path
    download(
        f"{url}/{quote(file.path)}",
        target,
        check=lambda path: file_hash(path, "md5") == file.md5,
        description=description,
    )
    if file.path.endswith(_ARCHIVES):
        _unpack(target)
        write_text(_mark(target), file.md5)
        target.unlink()


def _unpack(archive: Path) -> None:
    """Unpack a scene next to its archive, atomically. Refuses entries that lead out of the folder."""
    if not hasattr(tarfile, "data_filter"):
        raise DatasetError("this Python cannot unpack archives safely; update it to 3.10.12, 3.11.4 or newer")
    work = archive.with_name(f".{archive.name}.unpacking")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(str(work), filter=_Bounded(archive.stat().st_size))
        entries = list(work.iterdir())
        if not entries:
            raise DatasetError(f"{archive}: contains no scene {_DEPTH} folders deep; is it from the authors' data set?")
        for entry in entries:
            target = archive.parent / entry.name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            os.replace(entry, target)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, KeyError) as error:
        raise DatasetError(f"{archive}: cannot be unpacked ({error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Bounded:
    """A tarfile filter that refuses archive bombs. Images and depth maps hardly compress, so it can be strict."""

    def __init__(self, packed: int) -> None:
        self._left = max(_SMALL, _MOST_TIMES * packed)

    def __call__(self, member: tarfile.TarInfo, target: str) -> tarfile.TarInfo | None:
        self._left -= member.size
        if self._left < 0:
            raise tarfile.FilterError(f"it would unpack to more than {_MOST_TIMES} times its size")
        return _inner(member, target)


def _inner(member: tarfile.TarInfo, target: str) -> tarfile.TarInfo | None:
    """The member without the folders around the scene; tarfile refuses it if it leads out of the target."""
    name = _without_folders(member.name)
    if name is None:
        return None
    if member.issym() or member.islnk():  # scenes have none, and tarfile's own link checks have had vulnerabilities
        raise tarfile.FilterError(f"{member.name!r} is a link")
    return tarfile.data_filter(member.replace(name=name, deep=False), target)


def _without_folders(name: str) -> str | None:
    parts = PurePosixPath(name).parts
    return "/".join(parts[_DEPTH:]) if len(parts) > _DEPTH else None


def _here(out: Path, path: str, md5: str) -> bool:
    target = out / path
    if path.endswith(_ARCHIVES):
        mark = _mark(target)
        return mark.is_file() and mark.read_text(encoding="ascii", errors="replace") == md5
    return target.is_file() and file_hash(target, "md5") == md5


def _mark(archive: Path) -> Path:
    """The marker file that records which archive was unpacked."""
    return archive.with_name(f".{archive.name}.unpacked")


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except ValueError:
        return False
