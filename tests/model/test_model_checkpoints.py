"""Loading and saving weights, and refusing what is not weights."""

import hashlib
import http.server
import pickle
import threading

import pytest
import torch
from kornia.feature import DISK as KorniaDISK

import disk
from disk.errors import CheckpointError, DiskError
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
        (lambda p: torch.save({"disk": {"fc.weight": torch.zeros(3)}}, p), "not a DISK checkpoint"),
        (lambda p: torch.save({"disk": wrong_shape()}, p), "weights of another network: unet.path_down.0.1.3.bias"),
        (lambda p: torch.save({"disk": not_finite()}, p), "not finite"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, capsys, write, words):
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


def test_names_that_are_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("DISK_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="disk weights fetch depth"):
        checkpoints.load("depth")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        checkpoints.load(tmp_path / "nothing.pth")
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


def test_fetch_verifies_the_blob_and_resumes(server, tmp_path, monkeypatch, model):
    url, file, ranges = server
    cache = tmp_path / "cache"
    monkeypatch.setenv("DISK_CACHE", str(cache))
    data = file.read_bytes()
    monkeypatch.setitem(checkpoints.RELEASED, "depth", ("depth-save.pth", git_blob(data)))
    cache.mkdir()
    (cache / "depth-save.pth.part").write_bytes(data[:1000])  # an earlier, interrupted download
    assert checkpoints.fetch("depth", url) == cache / "depth-save.pth"
    assert ranges == ["bytes=1000-"]
    assert same(disk.load("depth"), model)
    checkpoints.fetch("depth", url)
    assert len(ranges) == 1  # there already, not fetched again


def test_fetch_refuses_another_file(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DISK_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DiskError, match="checksum"):
        checkpoints.fetch("depth", server[0])  # the server's file is not the authors'
    assert not (tmp_path / "cache" / "depth-save.pth").exists()
