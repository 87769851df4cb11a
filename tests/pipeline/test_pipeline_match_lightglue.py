"""LightGlue in the match stage: its weights, image sizes and upright positions."""

from __future__ import annotations

import itertools
import json

import h5py
import pytest
import torch
from made_features import contents, make_artifacts

from disk.errors import ArtifactError, CheckpointError, DiskError
from disk.features import Matches
from disk.options import spelt_as_flags
from disk.pipeline.match import match
from disk.pipeline.match_options import MatchOptions
from disk.storage.artifacts import read_features


def test_lightglue_matches_and_remembers_its_weights(artifacts, tmp_path):
    kornia = pytest.importorskip("kornia.feature")
    torch.manual_seed(0)
    network = kornia.LightGlue(None, input_dim=128)
    for seed, name in enumerate(("one.pth", "two.pth")):
        torch.nn.init.constant_(network.log_assignment[-1].matchability.bias, 5.0 + seed)
        torch.save(network.state_dict(), tmp_path / name)
    options = {"matcher": "lightglue", "device": "cpu"}
    assert match(artifacts, MatchOptions(**options, matcher_weights=tmp_path / "one.pth")).pairs == 10
    with h5py.File(artifacts / "matches.h5") as file:
        assert json.loads(file.attrs["options"])["matcher"] == "lightglue"
        assert file["a"]["blank"].shape == (2, 0)
    with pytest.raises(ArtifactError, match="matcher_weights"):
        match(artifacts, MatchOptions(**options, matcher_weights=tmp_path / "two.pth"))
    with pytest.raises(CheckpointError, match=r"none\.pth"):
        match(artifacts, MatchOptions(**options, matcher_weights=tmp_path / "none.pth"))
    with spelt_as_flags(), pytest.raises(DiskError, match="--rt"):
        match(artifacts, MatchOptions(**options, rt=0.9))


def test_lightglue_gets_the_size_of_each_image(tmp_path, monkeypatch):
    sizes = {"a": (60, 60), "b": (90, 50), "c": (40, 70)}
    artifacts = make_artifacts(tmp_path / "sized", dict.fromkeys(sizes, 20), sizes=sizes)
    given = {}

    class Recorder:
        def __init__(self, *arguments):
            pass

        def match(self, f0, f1, size0, size1):
            with read_features(artifacts) as store:
                names = [next(n for n in sizes if torch.equal(store[n].keypoints, f.keypoints)) for f in (f0, f1)]
            given[tuple(names)] = (size0, size1)
            return Matches(torch.tensor([[0, 1]]), torch.zeros(1), torch.ones(1))

    monkeypatch.setattr("disk.matching.matcher.LightGlue", Recorder)
    torch.save({}, tmp_path / "w.pth")
    match(artifacts, MatchOptions(matcher="lightglue", matcher_weights=tmp_path / "w.pth", device="cpu"))
    assert given == {pair: (sizes[pair[0]], sizes[pair[1]]) for pair in itertools.combinations(sizes, 2)}
    assert contents(artifacts / "matches.h5")["a b"][1] == [[0], [1]]


def test_lightglue_gets_rotated_photos_upright(tmp_path, monkeypatch):
    """In a photo stored as 60 x 90 with EXIF 6, the pixel (10, 20) is at (90 - 1 - 20, 10) when upright."""
    artifacts = make_artifacts(tmp_path / "turned", {"a": 20, "b": 20}, sizes={"a": (60, 90), "b": (60, 90)})
    with h5py.File(artifacts / "keypoints.h5", "r+") as file:
        file["b"].attrs["orientation"] = 6
        file["b"][0] = (10, 20)
    given = []

    class Recorder:
        def __init__(self, *arguments):
            pass

        def match(self, *arguments):
            given.extend(arguments)
            return Matches(torch.tensor([[0, 1]]), torch.zeros(1), torch.ones(1))

    monkeypatch.setattr("disk.matching.matcher.LightGlue", Recorder)
    torch.save({}, tmp_path / "w.pth")
    match(artifacts, MatchOptions(matcher="lightglue", matcher_weights=tmp_path / "w.pth", device="cpu"))
    f0, f1, size0, size1 = given
    assert (size0, size1) == ((60, 90), (90, 60))
    assert f1.keypoints[0].tolist() == [69, 10]
    with read_features(artifacts) as store:
        assert torch.equal(f0.keypoints, store["a"].keypoints)
