"""The features that the options select."""

import torch
from evaluation_world import photo, write_photo

from disk.evaluation.options import FeatureOptions
from disk.evaluation.sources import open_sources


def test_disk_gives_the_detections_of_the_model(tmp_path):
    from disk.model.checkpoints import load

    view = write_photo(tmp_path / "a.png")
    (source,) = open_sources(FeatureOptions(n=20, device="cpu", cache=tmp_path / "cache"))
    assert source.label == "disk"
    source.prepare([view])
    found, expected = source.features(view), load().detect(photo(96, 128), n=20, subpixel=True)
    torch.testing.assert_close(found.keypoints, expected.keypoints)
    torch.testing.assert_close(found.descriptors, expected.descriptors, atol=1e-4, rtol=1e-4)


def test_methods_side_by_side(tmp_path):
    from disk.model.checkpoints import load, save

    save(load(), tmp_path / "other.safetensors")
    weights = ("default", str(tmp_path / "other.safetensors"))
    found = open_sources(FeatureOptions(method=("orb", "disk"), weights=weights))
    assert [source.label for source in found] == ["orb", "disk default", f"disk {weights[1]}"]
