"""LightGlue with random weights: ours equals kornia's module, for both layouts of the file."""

from __future__ import annotations

import sys
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from disk.errors import CheckpointError, DiskError, MissingExtraError
from disk.features import Features
from disk.matching.lightglue import LightGlue, fetch_weights

kornia = pytest.importorskip("kornia.feature")


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return kornia.LightGlue(None, input_dim=128, filter_threshold=0.0).eval()


def make(weights: dict[str, torch.Tensor]) -> LightGlue:
    return LightGlue(weights, torch.device("cpu"), False, Path("w.pth"))


def features(n: int, seed: int, d: int = 128) -> Features:
    generator = torch.Generator().manual_seed(seed)
    keypoints = torch.rand(n, 2, generator=generator) * torch.tensor([99.0, 59.0])
    descriptors = torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1)
    return Features(keypoints, descriptors, torch.zeros(n))


def released_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The layout of the authors' file: self_attn.3.x instead of transformers.3.self_attn.x, no buffers."""
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("transformers."):
            _, layer, kind, rest = name.split(".", 3)
            name = f"{kind}.{layer}.{rest}"
        if name != "confidence_thresholds":
            renamed[name] = tensor
    return renamed


@pytest.mark.parametrize("layout", [dict, released_names])
def test_matches_equal_those_of_kornias_module(network, layout):
    ours = make(layout(network.state_dict()))
    ours.network.conf.filter_threshold = 0.0
    f0, f1 = features(40, 1), features(50, 2)
    matches = ours.match(f0, f1, (100, 60), (100, 60))
    size = torch.tensor([[100.0, 60.0]])
    data = {
        f"image{i}": {"keypoints": f.keypoints[None], "descriptors": f.descriptors[None], "image_size": size}
        for i, f in enumerate((f0, f1))
    }
    with torch.no_grad():
        found = network(data)
    expected = found["matches"][0]
    assert len(expected) > 0
    scores = dict(zip(map(tuple, expected.tolist()), found["scores"][0].tolist(), strict=True))
    assert matches.scores.tolist() == pytest.approx([scores[tuple(pair)] for pair in matches.indices.tolist()])
    assert torch.equal(matches.points0, f0.keypoints[matches.indices[:, 0]])
    assert torch.equal(matches.points1, f1.keypoints[matches.indices[:, 1]])
    assert sorted(matches.indices.tolist()) == sorted(expected.tolist())
    assert (matches.indices[:, 0].diff() > 0).all()
    d0, d1 = f0.descriptors[matches.indices[:, 0]], f1.descriptors[matches.indices[:, 1]]
    torch.testing.assert_close(matches.distances, (d0 - d1).norm(dim=1))


def test_no_features_give_no_matches(network):
    ours = make(network.state_dict())
    assert len(ours.match(features(0, 1), features(5, 2), (100, 60), (100, 60))) == 0
    assert len(ours.match(features(5, 1), features(0, 2), (100, 60), (100, 60))) == 0


class Recorder(torch.nn.Module):
    """Replaces the network: records its input, and matches the first features."""

    def forward(self, data):
        self.data = data
        return {"matches": [torch.tensor([[1, 0], [0, 2]])], "scores": [torch.tensor([0.25, 0.75])]}


def test_the_network_gets_the_size_of_each_image_and_keypoints_inside_it(network):
    ours = make(network.state_dict())
    ours.network = Recorder()
    f0, f1 = features(5, 1), features(4, 2)
    f0.keypoints[0], f1.keypoints[3] = torch.tensor([-0.4, 60.2]), torch.tensor([80.4, -3.0])
    matches = ours.match(f0, f1, (100, 60), (80, 70))
    given = ours.network.data
    assert given["image0"]["image_size"].tolist() == [[100, 60]]
    assert given["image1"]["image_size"].tolist() == [[80, 70]]
    # kornia refuses points outside the image, where rounding can put them
    assert given["image0"]["keypoints"][0, 0].tolist() == [0, 60]
    assert given["image1"]["keypoints"][0, 3].tolist() == [80, 0]
    inside = (f1.keypoints[:3, 0] <= 80) & (f1.keypoints[:3, 1] <= 70)
    assert torch.equal(given["image1"]["keypoints"][0, :3][inside], f1.keypoints[:3][inside])
    assert torch.equal(given["image1"]["descriptors"][0], f1.descriptors)
    assert matches.indices.tolist() == [[0, 2], [1, 0]]
    assert matches.scores.tolist() == [0.75, 0.25]
    assert torch.equal(matches.points0, f0.keypoints[:2])


def test_a_keypoint_just_outside_is_accepted(network):
    ours = make(network.state_dict())
    f0 = features(5, 1)
    f0.keypoints[0] = torch.tensor([-0.4, 60.2])
    found = ours.match(f0, features(5, 2), (100, 60), (100, 60))
    f0.keypoints[0] = torch.tensor([0.0, 60.0])
    at_the_border = ours.match(f0, features(5, 2), (100, 60), (100, 60))
    assert torch.equal(found.indices, at_the_border.indices)
    assert torch.equal(found.scores, at_the_border.scores)


def test_other_weights_and_other_descriptors_are_refused(network):
    with pytest.raises(CheckpointError, match=r"w\.pth: not LightGlue's weights"):
        make({"something": torch.zeros(3)})
    wrong = {name: tensor[..., :1] for name, tensor in network.state_dict().items()}
    with pytest.raises(CheckpointError, match="another network"):
        make(wrong)
    with pytest.raises(DiskError, match="length 128"):
        make(network.state_dict()).match(features(5, 1, 64), features(5, 2, 64), (9, 9), (9, 9))


def test_weights_are_downloaded_once(network, tmp_path):
    class Server(SimpleHTTPRequestHandler):
        requests = 0

        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args):
            Server.requests += 1

    torch.save({"weights": torch.zeros(3)}, tmp_path / "released.pth")
    (tmp_path / "page.html").write_text("not weights")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        with pytest.raises(CheckpointError, match="matcher_weights") as caught:
            fetch_weights(tmp_path / "cache", f"{address}/page.html")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "cache" / "disk_lightglue.pth").exists()
        path = fetch_weights(tmp_path / "cache", f"{address}/released.pth")
        assert path.read_bytes() == (tmp_path / "released.pth").read_bytes()
        before = Server.requests
        assert fetch_weights(tmp_path / "cache", f"{address}/released.pth") == path
        assert Server.requests == before
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(CheckpointError, match=r"cannot be reached.*matcher_weights"):
        fetch_weights(tmp_path / "other", f"{address}/released.pth")


def test_without_kornia_the_extra_is_named(network, monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia", None)
    with pytest.raises(MissingExtraError, match=r"disk-features\[lightglue\]"):
        make(network.state_dict())
