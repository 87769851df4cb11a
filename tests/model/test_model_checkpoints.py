"""Loading and saving weights, and refusing other files."""

import hashlib
import http.server
import pickle
import subprocess
import sys
import threading

import pytest
import torch
from kornia.feature import DISK as KorniaDISK

import disk
from disk.cache import cache_folder
from disk.errors import CheckpointError, DiskError, DownloadError
from disk.model import checkpoints
from disk.model.disk import DISK


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(8)
    return DISK()


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("key", ["disk", "extractor", None])
def test_both_keys_of_the_original_load(model, tmp_path, key):
    path = tmp_path / "save.pth"
    torch.save({key: model.state_dict()} if key else model.state_dict(), path)
    loaded = disk.load(path)
    assert same(loaded, model)
    assert not loaded.training


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_saved_weights_load_again(model, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    checkpoints.save(model, path)
    assert same(checkpoints.load(path), model)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_ours_load_in_kornia(model, tmp_path):
    path = tmp_path / "weights.pth"
    checkpoints.save(model, path)
    theirs = KorniaDISK()
    theirs.load_state_dict(torch.load(path, weights_only=True)["extractor"])
    assert same(theirs, model)


def test_the_default_ships_with_the_package():
    model = disk.load()
    assert checkpoints.resolve("default").stat().st_size <= 5_000_000
    assert all(p.isfinite().all() for p in model.parameters())


def test_descriptor_length_is_read_from_the_file(tmp_path):
    checkpoints.save(DISK(desc_dim=32), tmp_path / "small.safetensors")
    assert checkpoints.load(tmp_path / "small.safetensors").desc_dim == 32


def test_hash_depends_on_the_weights_only(model, tmp_path):
    checkpoints.save(model, tmp_path / "a.safetensors")
    loaded = checkpoints.load(tmp_path / "a.safetensors")
    assert checkpoints.weights_hash(loaded) == checkpoints.weights_hash(model)
    with torch.no_grad():
        loaded.unet.path_down[0][1][3].bias[0] += 1e-3
    assert checkpoints.weights_hash(loaded) != checkpoints.weights_hash(model)


class Bomb:
    def __reduce__(self):
        return (print, ("this must not run",))


def write_pickle(path):
    path.write_bytes(pickle.dumps({"disk": Bomb()}))


def write_torch_pickle(path):
    torch.save({"disk": Bomb()}, path)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (write_pickle, "not a checkpoint"),
        (write_torch_pickle, "pickled code"),
        (lambda p: p.write_bytes(b""), "not a checkpoint"),
        (lambda p: p.write_text("no weights at all"), "not a checkpoint"),
        (lambda p: torch.save([1, 2], p), "named tensors"),
        (lambda p: torch.save({"disk": {"fc.weight": torch.zeros(3)}}, p), "weights of another network, not of DISK"),
        (lambda p: torch.save({"disk": wrong_shape()}, p), "weights of another network: unet.path_down.0.1.3.bias"),
        (lambda p: torch.save({"disk": not_finite()}, p), "not finite"),
    ],
)
def test_files_that_are_not_checkpoints_are_refused_in_one_line(tmp_path, capsys, write, words):
    path = tmp_path / "bad.pth"
    write(path)
    with pytest.raises(CheckpointError, match=words) as caught:
        checkpoints.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "this must not run" not in capsys.readouterr().out


def wrong_shape():
    return {**DISK().state_dict(), "unet.path_down.0.1.3.bias": torch.zeros(17)}


def not_finite():
    return {**DISK().state_dict(), "unet.path_down.0.1.3.bias": torch.full((16,), torch.nan)}


def test_truncated_safetensors(model, tmp_path):
    path = tmp_path / "cut.safetensors"
    checkpoints.save(model, path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors"):
        checkpoints.load(path)


def test_truncated_pth(model, tmp_path):
    path = tmp_path / "cut.pth"
    checkpoints.save(model, path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match=r"cut\.pth"):
        checkpoints.load(path)


def test_safetensors_of_another_network(tmp_path):
    from safetensors.torch import save_file

    save_file({"conv.weight": torch.zeros(3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors: weights of another network"):
        checkpoints.load(tmp_path / "other.safetensors")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_load_as_float32(model, tmp_path, dtype):
    torch.save({k: v.to(dtype) for k, v in model.state_dict().items()}, tmp_path / "other.pth")
    for got, stored in zip(disk.load(tmp_path / "other.pth").parameters(), model.parameters(), strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, stored.to(dtype).float())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dept", "did you mean depth"),
        ("Epipolar", "did you mean epipolar"),
        ("nothing", "give a file or one of default, depth, epipolar"),
        ("run/save-11.pth", r"did you mean .*run/save-1\.pth"),
        ("run", r"run is a folder; give one of its files: save-1\.pth"),
        ("empty", r"empty is a folder; give a file \(\.safetensors or \.pth\)"),
        ("https://example.org/depth-save.pth", "cannot load from a URL"),
    ],
)
def test_missing_names(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "run" / "save-1.pth").touch()
    with pytest.raises(CheckpointError, match=words) as caught:
        checkpoints.load(name)
    assert "\n" not in str(caught.value)


def test_names_of_files_to_write(tmp_path):
    with pytest.raises(CheckpointError, match=r"name it \.safetensors or \.pth"):
        checkpoints.save(DISK(), tmp_path / "weights.bin")


@pytest.fixture
def server(tmp_path, model):
    """A local server with the file of `depth`; yields (address, the file, a list of requested ranges)."""
    folder = tmp_path / "server"
    folder.mkdir()
    file = folder / "depth-save.pth"
    checkpoints.save(model, file)
    ranges = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            data = (folder / self.path.strip("/")).read_bytes()
            wanted = self.headers.get("Range")
            ranges.append(wanted)
            start = int(wanted[6:].rstrip("-")) if wanted else 0
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start:])

        def log_message(self, *args):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}", file, ranges
    httpd.shutdown()
    httpd.server_close()


def git_blob(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.fixture
def released(server, tmp_path, monkeypatch):
    """The server's file passes for the authors' `depth`; returns (its bytes, an empty DISK_HOME, requested ranges)."""
    url, file, ranges = server
    data = file.read_bytes()
    monkeypatch.setenv("DISK_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(checkpoints, "RELEASED_URL", url)
    monkeypatch.setitem(checkpoints.RELEASED, "depth", ("depth-save.pth", git_blob(data)))
    return data, tmp_path / "home", ranges


def test_the_authors_weights_are_fetched_on_first_use(released, model, caplog):
    _, home, ranges = released
    with caplog.at_level("INFO", logger="disk"):
        assert same(disk.load("depth"), model)
    assert f"{checkpoints.RELEASED_URL}/depth-save.pth to {home / 'depth-save.pth'}" in caplog.text
    assert same(disk.load("depth"), model)
    assert ranges == [None]
    assert [p.name for p in home.iterdir()] == ["depth-save.pth"]


def test_an_interrupted_download_is_resumed(released, model):
    data, home, ranges = released
    home.mkdir()
    (home / "depth-save.pth.part").write_bytes(data[:1000])
    assert same(disk.load("depth"), model)
    assert ranges == ["bytes=1000-"]


def test_damaged_weights_in_the_cache_are_replaced(released, model):
    data, home, _ = released
    home.mkdir()
    (home / "depth-save.pth").write_bytes(data[:-1])
    assert same(disk.load("depth"), model)


def test_offline_nothing_is_fetched_and_cached_weights_load(released, monkeypatch, model):
    data, home, ranges = released
    monkeypatch.setenv("DISK_OFFLINE", "1")
    with pytest.raises(DownloadError, match="DISK_OFFLINE is set"):
        disk.load("depth")
    home.mkdir()
    (home / "depth-save.pth").write_bytes(data)
    assert same(disk.load("depth"), model)
    assert ranges == []
    monkeypatch.setenv("DISK_OFFLINE", "0")
    (home / "depth-save.pth").unlink()
    assert same(disk.load("depth"), model)


def test_two_processes_fetch_once(released):
    data, home, ranges = released
    code = (
        "import sys; from disk.model import checkpoints as c;"
        f"c.RELEASED['depth'] = ('depth-save.pth', {git_blob(data)!r}); c.fetch('depth', {checkpoints.RELEASED_URL!r})"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [p.wait() for p in processes] == [0, 0]
    assert ranges == [None]
    assert [p.name for p in home.iterdir()] == ["depth-save.pth"]
    assert (home / "depth-save.pth").read_bytes() == data


def test_fetch_refuses_another_file(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DISK_HOME", str(tmp_path / "cache"))
    with pytest.raises(DiskError, match="checksum"):
        checkpoints.fetch("depth", server[0])  # the server's file is not the authors'
    assert not (tmp_path / "cache" / "depth-save.pth").exists()


def test_the_cache_folder(monkeypatch, tmp_path):
    for name in ("DISK_HOME", "DISK_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "disk-features"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "disk-features"
    monkeypatch.setenv("DISK_CACHE", str(tmp_path / "old"))
    assert cache_folder() == tmp_path / "old"
    monkeypatch.setenv("DISK_HOME", "~/here")
    assert cache_folder() == tmp_path / "here"
