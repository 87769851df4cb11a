"""Matching of two views: nearest neighbours, and LightGlue on upright images."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from evaluation_world import spots, write_artifacts, write_photo
from PIL import Image

import disk
from disk.evaluation import matching, sources
from disk.evaluation.ground_truth import View
from disk.evaluation.matching import Matcher
from disk.evaluation.options import FeatureOptions
from disk.evaluation.sources import open_sources
from disk.evaluation.stored import StoredFeatures
from disk.features import Features, Matches
from disk.pipeline.match import match
from disk.pipeline.match_options import MatchOptions
from disk.storage.artifacts import read_matches


class Recorded:
    """Replaces LightGlue: records its input, and matches feature k with feature k."""

    calls: ClassVar[list[tuple]] = []

    def __init__(self, weights, device, half, source):
        self.calls.clear()

    def match(self, f0, f1, size0, size1):
        self.calls.append((f0, f1, size0, size1))
        k = torch.arange(min(len(f0), len(f1)))
        found = Matches(torch.stack([k, k], 1), torch.zeros(len(k)), torch.linspace(0, 1, len(k)))
        return found.between(f0, f1)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[FeatureOptions, list[tuple]]:
    monkeypatch.setattr("disk.matching.matcher.LightGlue", Recorded)
    torch.save({}, tmp_path / "lightglue.pth")
    options = FeatureOptions(matcher="lightglue", matcher_weights=tmp_path / "lightglue.pth", n=50, device="cpu")
    return options, Recorded.calls


@pytest.mark.parametrize(
    ("turns", "tag", "point", "size"),
    [
        (0, 1, (41, 7), (50, 30)),
        (1, 1, (7, 8), (30, 50)),
        (2, 1, (8, 22), (50, 30)),
        (3, 1, (22, 41), (30, 50)),
        (0, 6, (22, 41), (30, 50)),
        (0, 8, (7, 8), (30, 50)),
        (2, 6, (8, 22), (50, 30)),
    ],
)
def test_lightglue_gets_upright_positions_and_sizes(tmp_path, recorded, turns, tag, point, size):
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.new("RGB", (50, 30)).save(tmp_path / "a.png", exif=exif)
    Image.new("RGB", (64, 20)).save(tmp_path / "b.png")
    stored = {
        "a": Features(torch.tensor([[41.0, 7.0]]), torch.ones(1, 128), torch.ones(1)),
        "b": Features(torch.tensor([[5.0, 6.0]]), torch.ones(1, 128), torch.ones(1)),
    }

    class Stored(StoredFeatures):
        def __init__(self):
            pass

        def features(self, view):
            return stored[view.name]

    options, calls = recorded
    Matcher(options).match(Stored(), View(tmp_path / "a.png", "a", turns), View(tmp_path / "b.png", "b"), None)
    f0, f1, size0, size1 = calls[0]
    assert (f0.keypoints.tolist(), size0) == ([list(point)], size)
    assert (f1.keypoints.tolist(), size1) == ([[5.0, 6.0]], (64, 20))


@pytest.mark.parametrize("turns", [(0, 0), (1, 0), (0, 2), (3, 1)])
def test_lightglue_gets_the_size_and_rotation_of_each_image(tmp_path, recorded, monkeypatch, turns):
    options, calls = recorded
    monkeypatch.setattr(sources, "detect_baseline", lambda method, image, n: spots(image, n))
    stored = {"a": [(3, 20), (41, 7)], "b": [(0, 0), (59, 30)]}
    views, upright = [], []
    for (name, points), (width, height), turned in zip(stored.items(), [(50, 30), (60, 31)], turns, strict=True):
        image = np.zeros((height, width, 3), np.uint8)
        for x, y in points:
            image[y, x] = [255, 0, 0]
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        views.append(View(tmp_path / f"{name}.png", name, turns=turned))
        upright.append(np.rot90(image, turned))
    (source,) = open_sources(replace(options, method=("sift",), matcher="mnn", matcher_weights=None))
    source.prepare(views)
    matcher = Matcher(options)
    assert matcher.ratios == (None,)
    matches = matcher.match(source, *views, None)
    (f0, f1, *sizes), images = calls[0], upright
    assert sizes == [(image.shape[1], image.shape[0]) for image in images]
    for features, image in zip((f0, f1), images, strict=True):
        assert sorted(features.keypoints.tolist()) == sorted(spots(image, 10).keypoints.tolist())
    # the result is in pixels of the stored images
    assert matches.scores.tolist() == [0, 1]
    assert sorted(map(tuple, matches.points0.tolist())) == stored["a"]
    assert sorted(map(tuple, matches.points1.tolist())) == stored["b"]


def test_the_pipeline_and_evaluation_match_alike(tmp_path):
    """Both apply the ratio to distances, not to their squares, and in both directions."""
    angle = torch.deg2rad(torch.tensor([0.0, 40.0, 50.0, 180.0]))
    words = torch.stack([angle.cos(), angle.sin()], 1)
    near, far = (2 * torch.sin(angle[k] / 2) for k in (1, 2))  # distances of word 0 to words 1 and 2
    points = {name: np.zeros((len(d), 2)) for name, d in (("a", words[:1]), ("b", words[1:3]))}
    folder = write_artifacts(tmp_path / "found", points, {"a": words[:1].numpy(), "b": words[1:3].numpy()})
    views = write_photo(tmp_path / "a.png"), write_photo(tmp_path / "b.png")
    for ratio, expected in ((float(near / far) - 0.01, []), (float(near / far) + 0.01, [[0, 0]])):
        options = FeatureOptions(ratio=(ratio,), features=(folder,))
        (source,) = open_sources(options)
        assert Matcher(options).match(source, *views, ratio).indices.tolist() == expected
        assert disk.match(words[:1], words[1:3], ratio=ratio).indices.tolist() == expected
        match(folder, MatchOptions(rt=ratio, device="cpu", overwrite=True))
        with read_matches(folder) as stored:
            assert stored["a", "b"].T.tolist() == expected


def test_lightglue_has_no_ratio(tmp_path):
    import kornia.feature

    torch.manual_seed(0)
    torch.save(kornia.feature.LightGlue(None, input_dim=128).state_dict(), tmp_path / "lightglue.pth")
    options = FeatureOptions(matcher="lightglue", matcher_weights=tmp_path / "lightglue.pth", n=20, device="cpu")
    matcher = Matcher(options)
    assert matcher.ratios == (None,)
    (source,) = open_sources(options)
    view0, view1 = write_photo(tmp_path / "a.png"), write_photo(tmp_path / "b.png", seed=1)
    source.prepare([view0, view1])
    indices = matcher.match(source, view0, view1, None).indices
    assert indices.shape[1] == 2
    assert indices.max() < 20 if len(indices) else True


def test_nearest_neighbours_run_on_the_cpu_and_a_ratio_of_1_is_no_test(monkeypatch):
    """On any device of the network; LightGlue runs on that device, and has no ratio."""
    made = []
    monkeypatch.setattr(matching, "make_matcher", lambda *arguments, weights: made.append((*arguments, weights)))
    monkeypatch.setattr(matching, "choose_device", lambda name: f"device {name}")
    monkeypatch.setattr(matching, "read_lightglue", lambda path: f"weights {path}")
    assert Matcher(FeatureOptions(ratio=(0.8, 1.0), device="cuda:1")).ratios == (0.8, 1.0)
    assert made == [("mnn", "device cpu", 0.8, None), ("mnn", "device cpu", None, None)]
    made.clear()
    assert Matcher(FeatureOptions(matcher="lightglue", device="cuda:1")).ratios == (None,)
    assert made == [("lightglue", "device cuda:1", None, "weights None")]
