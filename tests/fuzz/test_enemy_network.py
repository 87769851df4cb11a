"""Malicious servers, archives and reports, and access to a Ray cluster."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from disk.datasets import download as archives
from disk.errors import DatasetError, DownloadError
from disk.storage import download as downloads
from disk.storage.download import download, fetch_text
from disk.viewing.report import Picture, Section, Table, write_report

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def served() -> Iterator[Callable[[Answer], str]]:
    """Starts servers that answer every request in the same way; returns their addresses."""
    running: list[ThreadingHTTPServer] = []

    def serve(answer: Answer) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                try:
                    answer(self)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(server)
        return f"http://127.0.0.1:{server.server_port}/file"

    yield serve
    for server in running:
        server.shutdown()
        server.server_close()


def fetch(url: str, target: Path, most: int = 1 << 20) -> None:
    download(url, target, check=lambda path: False, description="file", most=most)


def answer(status: int, headers: dict[str, str], body: bytes = b"") -> Answer:
    def send(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(body)

    return send


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x", "gopher://x/"])
def test_redirections_to_other_schemes(served, tmp_path: Path, where: str) -> None:
    url = served(answer(302, {"Location": where, "Content-Length": "0"}))
    for call in (lambda: fetch(url, tmp_path / "file"), lambda: fetch_text(url)):
        with pytest.raises(DownloadError, match=r"redirects to|is not allowed"):
            call()
    assert not (tmp_path / "file").exists()


def test_redirections_from_https_to_http() -> None:
    request = downloads.urllib.request.Request("https://a.example/x")
    follow = downloads._SameSafety().redirect_request
    with pytest.raises(DownloadError, match=r"redirects to http://a\.example"):
        follow(request, io.BytesIO(), 302, "Found", {}, "http://a.example/x")
    assert follow(request, io.BytesIO(), 302, "Found", {}, "https://b.example/x") is not None


def test_redirection_loops(served, tmp_path: Path) -> None:
    url = served(answer(302, {"Location": "/file", "Content-Length": "0"}))
    with pytest.raises(DownloadError, match="302"):
        fetch(url, tmp_path / "file")


def test_a_server_that_stalls_or_is_slow(served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crawl(request: BaseHTTPRequestHandler) -> None:
        answer(200, {"Content-Length": "1000000"})(request)
        for _ in range(100):
            request.wfile.write(b"x")
            time.sleep(0.05)

    monkeypatch.setattr(downloads, "_TIMEOUT", 0.3)
    with pytest.raises(DownloadError, match=r"sends only \d+ bytes/s"):
        fetch(served(crawl), tmp_path / "file")
    for stalled in (lambda _: time.sleep(2), answer(200, {"Content-Length": "5"})):
        with pytest.raises(DownloadError, match=r"cannot be reached|broke off"):
            fetch(served(stalled), tmp_path / "other")


@pytest.mark.parametrize("length", ["9" * 5000, "-5", "5e3", "\xb2", ""], ids=["digits", "-5", "5e3", "square", "none"])
def test_invalid_lengths(served, tmp_path: Path, length: str) -> None:
    with pytest.raises(DownloadError, match="checksum"):
        fetch(served(answer(200, {"Content-Length": length, "Connection": "close"}, b"hello")), tmp_path / "file")


def test_more_than_announced_and_endless(served, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="announces more than 1048576 bytes"):
        fetch(served(answer(200, {"Content-Length": str(10**15)})), tmp_path / "file")

    def endless(request: BaseHTTPRequestHandler) -> None:
        answer(200, {"Connection": "close"})(request)
        for _ in range(1000):
            request.wfile.write(bytes(1 << 16))

    for call in (lambda: fetch(served(endless), tmp_path / "file"), lambda: fetch_text(served(endless))):
        with pytest.raises(DownloadError, match="sends more than"):
            call()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0


def test_the_list_of_files_names_no_file_outside(served, tmp_path: Path) -> None:
    for name in ("../evil", "/etc/evil", "a/../../evil", "a\0b"):
        url = served(answer(200, {"Connection": "close"}, f"{'0' * 32}  {name}\n".encode()))
        with pytest.raises(DatasetError, match="not a checksum and a path"):
            archives.list_files(tmp_path, url)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(f"a/b/c/{name}")
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize(
    "hostile",
    [
        member("scene/link", tarfile.SYMTYPE, "image.jpg"),
        member("scene/link", tarfile.SYMTYPE, "/etc"),
        member("scene/link", tarfile.LNKTYPE, "a/b/c/scene/image.jpg"),
        member("../../../../evil"),
        member("scene/device", tarfile.CHRTYPE),
        member("scene/pipe", tarfile.FIFOTYPE),
    ],
    ids=["link inside", "link outside", "hard link", "dots", "device", "pipe"],
)
def test_archives_with_links_and_dots(tmp_path: Path, hostile: tarfile.TarInfo) -> None:
    (tmp_path / "scenes").mkdir()
    with tarfile.open(tmp_path / "scenes" / "0.tar", "w") as tar:
        tar.addfile(member("scene/image.jpg"))
        tar.addfile(hostile)
    with pytest.raises(DatasetError, match="cannot be unpacked"):
        archives._unpack(tmp_path / "scenes" / "0.tar")
    assert [path.name for path in tmp_path.rglob("*")] == ["scenes", "0.tar"]


def test_archives_that_expand(tmp_path: Path) -> None:
    header = member("scene/image.jpg", size=1 << 40).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "0.tar.gz").write_bytes(gzip.compress(header + bytes(1 << 24)))
    with pytest.raises(DatasetError, match="unpack to more than 20 times its size"):
        archives._unpack(tmp_path / "0.tar.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["0.tar.gz"]


HOSTILE = [
    "<script>document.title='run'</script>",
    '"><img src=x onerror="document.title=\'run\'">',
    "' onload='document.title=\"run\"' x='",
    "</title><svg onload=\"document.title='run'\">",
    "@body@intro@title<script>document.title='run'</script>",
    "<!--<script>document.title='run'//",
    "\u2028]]><iframe srcdoc=\"<script>parent.document.title='run'</script>\">",
    "javascript:document.title='run'",
]


def hostile_report(folder: Path) -> Path:
    Image.new("RGB", (4, 4)).save(folder / "a.png")
    sections = [
        Section(name, name, [(name, name)], [Picture(folder / "a.png", name)], Table([name, name], [[name, name]]))
        for name in HOSTILE
    ]
    return write_report(folder / "report.html", "".join(HOSTILE), "".join(HOSTILE), sections)


def test_a_report_with_hostile_names_has_no_script(tmp_path: Path) -> None:
    from html.parser import HTMLParser

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "iframe", "svg", "object", "a")
            for key, value in attrs:
                assert not key.startswith("on")
                assert key != "src" or (value or "").startswith("data:image/png;base64,")

    reader = Reader()
    reader.feed(hostile_report(tmp_path).read_text(encoding="utf-8"))
    reader.close()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_runs_nothing_in_a_report(tmp_path: Path) -> None:
    def title(page: Path) -> str:
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=1000"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
        return shown.partition("<title>")[2].partition("</title>")[0]

    (tmp_path / "bare.html").write_text(f"<title></title>{HOSTILE[1][2:]}")
    assert title(tmp_path / "bare.html") == "run"  # where nothing is escaped
    assert title(hostile_report(tmp_path)) not in ("run", "")


@pytest.mark.slow
def test_a_local_ray_refuses_access_without_its_token(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    inside = """
import subprocess, sys, os
from disk.pipeline.cluster import Cluster
with Cluster("local", lambda: lambda x: 2 * x, "cpu", 1) as cluster:
    assert list(cluster.map([(0, (21,))])) == [(0, 42)]
    import ray
    address = ray.get_runtime_context().gcs_address
    stranger = "import sys; from ray._raylet import GcsClient"
    stranger += "; GcsClient(address=sys.argv[1]).get_all_node_info(timeout=5); print('inside')"
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"HOME": sys.argv[1]}
    for token, welcome in ((None, False), (os.environ["RAY_AUTH_TOKEN"], True)):
        more = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
        answer = subprocess.run([sys.executable, "-c", stranger, address], env=kept | more,
                                capture_output=True, text=True, timeout=40)
        assert ("inside" in answer.stdout) == welcome, (token, answer.stdout, answer.stderr[-2000:])
print("done")
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    answer = subprocess.run(
        [sys.executable, "-c", inside, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert answer.stdout.endswith("done\n"), answer.stderr[-3000:]
