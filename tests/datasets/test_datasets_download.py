"""A small copy of the authors' data set on a local server."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from disk.datasets.download import download_disk_data, list_files
from disk.datasets.scenes import SceneSet
from disk.datasets.tuples import TupleDataset
from disk.errors import DatasetError, DownloadError, PartialFailureError

FILES = (
    "megadepth/scenes/0000.tar",
    "megadepth/scenes/0001.tar",
    "imw2020-val/scenes/chapel.tar.gz",
    "megadepth/dataset.json",
)


class Server(ThreadingHTTPServer):
    """Serves a folder, with ranges; records each response and its first byte."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.url = f"http://127.0.0.1:{self.server_port}/disk-data"
        self.sent: list[tuple[str, int]] = []

    def write_sums(self, sums: dict[str, str] | None = None) -> None:
        """Write md5sum.txt as the md5sum tool does; `sums` replaces some of them."""
        lines = [
            f"{(sums or {}).get(file) or hashlib.md5((self.root / file).read_bytes()).hexdigest()}  ./{file}\n"
            for file in FILES
        ]
        (self.root / "md5sum.txt").write_text("".join(lines))


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.removeprefix("/disk-data/")
        path = self.server.root / name
        if not path.is_file():
            self.send_error(404)
            return
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start, content = int(asked[1]) if asked else 0, path.read_bytes()
        self.server.sent.append((name, start))
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        self.wfile.write(content[start:])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(maker, tmp_path: Path) -> Iterator[Server]:
    root = tmp_path / "served"
    for part, scenes in (("megadepth", ("0000", "0001")), ("imw2020-val", ("chapel",))):
        made = type(maker)(root / part)
        for scene in scenes:
            made.scene(f"scenes/{scene}")
            archive = root / part / "scenes" / (f"{scene}.tar" if part == "megadepth" else f"{scene}.tar.gz")
            with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as tar:
                tar.add(root / part / "scenes" / scene, f"disk-data/{part}/scenes/{scene}")
            shutil.rmtree(root / part / "scenes" / scene)
        # folders that exist only after unpacking
        made.write()
    server = Server(root)
    server.write_sums()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_training_can_start(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "data"
    download_disk_data(out, server.url)
    for part, count in (("train", 4), ("test", 2)):
        assert len(TupleDataset(SceneSet.load(out / part), 32, 48)[0]) == 3
        assert len(TupleDataset(SceneSet.load(out / part), 32, 48)) == count
    assert not list(out.rglob("*.tar*.part"))
    assert not list(out.rglob("[!.]*.tar*"))
    assert all(file.here for file in list_files(out, server.url))
    server.sent.clear()
    download_disk_data(out, server.url)
    assert server.sent == [("md5sum.txt", 0)]


def test_a_download_resumes_where_it_stopped(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "data"
    part = out / "megadepth/scenes/0001.tar.part"
    part.parent.mkdir(parents=True)
    part.write_bytes((server.root / FILES[1]).read_bytes()[:2000])
    unfinished = out / "megadepth/scenes/.0000.tar.unpacking/0000"
    unfinished.mkdir(parents=True)
    (unfinished / "leftover").touch()
    download_disk_data(out, server.url)
    assert (FILES[1], 2000) in server.sent
    assert sorted(path.name for path in (out / "megadepth/scenes/0000").iterdir()) == ["calibration", "depth", "images"]
    assert len(TupleDataset(SceneSet.load(out / "train"), 32, 48)) == 4


def test_downloaded_files_are_listed(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "data"
    assert [(file.path, file.here) for file in list_files(out, server.url)] == [(file, False) for file in FILES]
    download_disk_data(out, server.url)
    server.write_sums({FILES[0]: "0" * 32})
    assert [file.here for file in list_files(out, server.url)] == [False, True, True, True]


def test_a_corrupt_archive_does_not_stop_the_others(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "data"
    server.write_sums({FILES[0]: "0" * 32})
    with pytest.raises(PartialFailureError, match=r"1 file failed.*0000\.tar: .*checksum"):
        download_disk_data(out, server.url)
    assert (out / "megadepth/scenes/0001/images").is_dir()
    assert not (out / "megadepth/scenes/0000").exists()
    server.write_sums()
    server.sent.clear()
    download_disk_data(out, server.url)
    assert [name for name, _ in server.sent if name in FILES] == [FILES[0]]
    assert len(TupleDataset(SceneSet.load(out / "train"), 32, 48)) == 4


def member(name: str, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize(
    "evil",
    [
        member("a/b/c/../../../../evil", type=tarfile.REGTYPE),
        member("a/b/c/0000/link", type=tarfile.SYMTYPE, linkname="/etc"),
        member("a/b/c/0000/link", type=tarfile.SYMTYPE, linkname="../../../../.."),
        member("a/b/c/0000/link", type=tarfile.LNKTYPE, linkname="a/b/c/../../../../evil"),
        member("a/b/c/0000/pipe", type=tarfile.FIFOTYPE),
        member("outside", type=tarfile.REGTYPE),
    ],
    ids=["name", "absolute link", "link", "hard link", "device", "no scene"],
)
def test_no_path_leads_out_of_an_archive(server: Server, tmp_path: Path, evil: tarfile.TarInfo) -> None:
    with tarfile.open(server.root / FILES[0], "w") as tar:
        tar.addfile(evil, io.BytesIO())
    server.write_sums()
    out = tmp_path / "data"
    before = sorted(path for path in tmp_path.rglob("*") if out not in path.parents)
    with pytest.raises(PartialFailureError, match=r"1 file failed.*0000\.tar"):
        download_disk_data(out, server.url)
    assert sorted(path for path in tmp_path.rglob("*") if out not in path.parents) == sorted([*before, out])
    assert sorted(path.name for path in (out / "megadepth/scenes").iterdir() if path.name[0] != ".") == [
        "0000.tar",
        "0001",
    ]


@pytest.mark.parametrize("line", ["0" * 32 + "  ../x", "0" * 32 + "  /etc/passwd", "<html>", "xyz  a.tar", "0" * 32])
def test_an_invalid_list(server: Server, tmp_path: Path, line: str) -> None:
    (server.root / "md5sum.txt").write_text(line)
    with pytest.raises(DatasetError, match=r"md5sum\.txt"):
        download_disk_data(tmp_path / "data", server.url)


def test_an_unreachable_server(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="404"):
        download_disk_data(tmp_path / "data", f"{server.url}/elsewhere")
    for file in FILES[:3]:
        (server.root / file).unlink()
    with pytest.raises(PartialFailureError, match="3 files failed; run the command again"):
        download_disk_data(tmp_path / "data", server.url)
