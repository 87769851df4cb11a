"""LightGlue with random weights: ours is kornia's own module, whatever the layout of the file."""

from __future__ import annotations

import pytest
import torch

from disk.errors import CheckpointError, DiskError
from disk.features import Features
from disk.matching.lightglue import LightGlue

kornia = pytest.importorskip("kornia.feature")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return kornia.LightGlue(None, input_dim=128, filter_threshold=0.0).eval()


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
def test_matches_are_those_of_kornias_module(network, layout):
    ours = LightGlue(layout(network.state_dict()), CPU)
    ours.network.conf.filter_threshold = 0.0
    f0, f1 = features(40, 1), features(50, 2)
    matches = ours.match(f0, f1, (100, 60), (100, 60))
    size = torch.tensor([[100.0, 60.0]])
    data = {
        f"image{i}": {"keypoints": f.keypoints[None], "descriptors": f.descriptors[None], "image_size": size}
        for i, f in enumerate((f0, f1))
    }
    with torch.no_grad():
        expected = network(data)["matches"][0]
    assert len(expected) > 0
    assert sorted(matches.indices.tolist()) == sorted(expected.tolist())
    assert (matches.indices[:, 0].diff() > 0).all()
    d0, d1 = f0.descriptors[matches.indices[:, 0]], f1.descriptors[matches.indices[:, 1]]
    torch.testing.assert_close(matches.distances, (d0 - d1).norm(dim=1))


def test_no_features_no_matches(network):
    ours = LightGlue(network.state_dict(), CPU)
    assert len(ours.match(features(0, 1), features(5, 2), (100, 60), (100, 60))) == 0
    assert len(ours.match(features(5, 1), features(0, 2), (100, 60), (100, 60))) == 0


def test_a_keypoint_just_outside_is_no_error(network):
    ours = LightGlue(network.state_dict(), CPU)
    f0 = features(5, 1)
    f0.keypoints[0] = torch.tensor([-0.4, 60.2])
    ours.match(f0, features(5, 2), (100, 60), (100, 60))


def test_other_weights_and_other_descriptors_are_refused(network):
    with pytest.raises(CheckpointError, match=r"w\.pth: not LightGlue's weights"):
        LightGlue({"something": torch.zeros(3)}, CPU, source="w.pth")
    wrong = {name: tensor[..., :1] for name, tensor in network.state_dict().items()}
    with pytest.raises(CheckpointError, match="another network"):
        LightGlue(wrong, CPU, source="w.pth")
    with pytest.raises(DiskError, match="length 128"):
        LightGlue(network.state_dict(), CPU).match(features(5, 1, 64), features(5, 2, 64), (9, 9), (9, 9))


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host\nand a long story")

    monkeypatch.setattr("kornia.feature.lightglue.load_state_dict_from_url", refuse)
    with pytest.raises(CheckpointError, match="--matcher-weights") as caught:
        LightGlue(None, CPU)
    assert "no route to host" in str(caught.value)
    assert "\n" not in str(caught.value)
