"""Downloads from a small local server, with and without ranges, with broken connections and wrong content."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from disk.errors import DownloadError
from disk.storage.download import download, fetch_text, file_hash

BYTES = bytes(range(256)) * 5000
MD5 = hashlib.md5(BYTES).hexdigest()


class Server(ThreadingHTTPServer):
    """Sends BYTES. `ranges`: whether it honours Range; `breaks`: number of bytes after which responses stop."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges = True
        self.breaks: list[int] = []
        self.requests: list[int] = []  # the first byte of each request

    def url(self, name: str = "file") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path != "/file":
            self.send_error(404)
            return
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and self.server.ranges else 0
        self.server.requests.append(start)
        if start >= len(BYTES):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(BYTES)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(BYTES) - 1}/{len(BYTES)}")
        self.send_header("Content-Length", str(len(BYTES) - start))
        self.end_headers()
        stop = start + self.server.breaks.pop(0) if self.server.breaks else len(BYTES)
        self.wfile.write(BYTES[start:stop])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def has_md5(path: Path) -> bool:
    return file_hash(path, "md5") == MD5


def test_fetches_verifies_and_does_not_fetch_twice(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "sub" / "file"
    for _ in range(2):
        assert download(server.url(), target, check=has_md5, description="file") == target
        assert target.read_bytes() == BYTES
    assert server.requests == [0]
    assert list(target.parent.iterdir()) == [target]


def test_continues_a_part(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(BYTES[:1000])
    assert download(server.url(), tmp_path / "file", check=has_md5, description="file").read_bytes() == BYTES
    assert server.requests == [1000]


def test_a_complete_part_is_only_renamed(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(BYTES)
    download(server.url(), tmp_path / "file", check=has_md5, description="file")
    assert (tmp_path / "file").read_bytes() == BYTES


@pytest.mark.parametrize("leftover", [b"something else", BYTES + b"and more"])
def test_a_wrong_part_is_replaced(server: Server, tmp_path: Path, leftover: bytes) -> None:
    (tmp_path / "file.part").write_bytes(leftover)
    assert download(server.url(), tmp_path / "file", check=has_md5, description="file").read_bytes() == BYTES
    assert server.requests[-1] == 0


def test_a_download_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "file.part").write_bytes(BYTES[:1000])
    assert download(server.url(), tmp_path / "file", check=has_md5, description="file").read_bytes() == BYTES


def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.breaks = [100_000, 300_000]
    assert download(server.url(), tmp_path / "file", check=has_md5, description="file").read_bytes() == BYTES
    assert server.requests == [0, 100_000, 400_000]


def test_a_connection_without_data_is_an_error_and_the_part_stays(server: Server, tmp_path: Path) -> None:
    server.breaks = [100_000, 0]
    with pytest.raises(DownloadError, match="100000 of 1280000 bytes; run the command again to continue"):
        download(server.url(), tmp_path / "file", check=has_md5, description="file")
    assert (tmp_path / "file.part").read_bytes() == BYTES[:100_000]
    assert not (tmp_path / "file").exists()


def test_a_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="checksum"):
        download(server.url(), tmp_path / "file", check=lambda path: False, description="file")
    assert [path.name for path in tmp_path.iterdir()] == [".file.lock"]


def test_a_damaged_target_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BYTES[:-1])
    assert download(server.url(), tmp_path / "file", check=has_md5, description="file").read_bytes() == BYTES


def test_refusals_are_one_line(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="404"):
        download(server.url("other"), tmp_path / "file", check=has_md5, description="file")
    with pytest.raises(DownloadError, match="not an http"):
        download("file:///etc/hostname", tmp_path / "file", check=has_md5, description="file")
    port = server.server_port
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError, match="cannot be reached") as error:
        fetch_text(f"http://127.0.0.1:{port}/file")
    assert "\n" not in str(error.value)


def test_text(server: Server) -> None:
    assert fetch_text(server.url()) == BYTES.decode("utf-8", errors="replace")


def test_hashes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(BYTES)
    assert file_hash(path, "sha256") == hashlib.sha256(BYTES).hexdigest()
    path.write_bytes(b"hello\n")
    assert file_hash(path, "git") == "ce013625030ba8dba906f756967f9e9ca394464a"  # as printed by `git hash-object`


def test_offline_nothing_is_requested(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISK_OFFLINE", "1")
    with pytest.raises(DownloadError, match="DISK_OFFLINE is set"):
        fetch_text(server.url())
    with pytest.raises(DownloadError, match=f"get the file from {server.url()}"):
        download(server.url(), tmp_path / "file", check=has_md5, description="file")
    (tmp_path / "file").write_bytes(BYTES)
    assert download(server.url(), tmp_path / "file", check=has_md5, description="file") == tmp_path / "file"
    assert server.requests == []


def test_a_folder_that_cannot_be_made_is_one_line(server: Server, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(DownloadError, match="cannot write"):
        download(server.url(), tmp_path / "taken" / "file", check=has_md5, description="file")
