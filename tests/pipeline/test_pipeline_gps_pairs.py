"""Pairs of photos that GPS says are near each other, and what is done with bad tags."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from placed_folder import NAMES, Place

from disk.cli.main import main
from disk.errors import PairsError
from disk.pipeline.match import match
from disk.pipeline.match_options import MatchOptions
from disk.storage.artifacts import read_matches
from geotagged import geotag
from synthetic_scene import write_features


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def test_bad_tags_are_reported_in_one_line(place: Place) -> None:
    place.tag(names=NAMES[2:])
    geotag(place.photos / "a.jpg", {1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)})
    geotag(place.photos / "b.jpg", {1: "N", 2: (12.0, 0.0, 0.0)})
    result = place.run(single_camera=True)
    assert result.georegistration["photos"] == 6
    (line,) = [remark for remark in result.remarks if "tags" in remark]
    assert line.startswith("the GPS tags of 2 photos are not used: ")
    assert "a.jpg" in line
    assert "b.jpg" in line


def test_spatial_pairs(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.tag(names=NAMES[:7])
    with caplog.at_level("INFO", logger="disk"):
        result = place.run(single_camera=True, pairs="spatial", top_k=2)
    distances = np.linalg.norm(place.truth[:7, None] - place.truth[None, :7], axis=2)
    wanted = set()
    for i in range(7):
        for j in np.argsort(distances[i])[1:3]:
            wanted.add((NAMES[min(i, j)], NAMES[max(i, j)]))
    with read_matches(place.out / "artifacts") as matches:
        pairs = set(matches.pairs())
    assert {pair for pair in pairs if "h" not in pair} == wanted
    assert len([pair for pair in pairs if "h" in pair]) == 2  # by similarity
    assert "matching 1 photo without GPS with similar ones: h" in caplog.text
    assert result.registered == 8


def test_spatial_pairs_within_a_distance(place: Place) -> None:
    """As a separate stage: half the photos are 10 km away, and one is isolated."""
    place.tag({name: [1e4, 0, 0] for name in NAMES[:4]} | {"h": [-1e4, 0, 0]})
    write_features(place.scene, place.out)
    command = ["match", str(place.out), "--pairs", "spatial", "--max-distance", "1000"]
    assert main(command) == 2
    assert main([*command, "--images", str(place.photos)]) == 0
    with read_matches(place.out) as matches:
        wanted = [*itertools.combinations(NAMES[:4], 2), *itertools.combinations(NAMES[4:7], 2)]
        assert matches.pairs() == wanted
    assert main([*command, "--images", str(place.photos), "--max-distance", "0"]) == 2
    with pytest.raises(PairsError, match="pairs='spatial' and images go together"):
        match(place.out, MatchOptions(images=place.photos))


def test_spatial_pairs_of_one_file_type(place: Place) -> None:
    """A raw converter's folder: photos and their copies share their names."""
    place.tag()
    write_features(place.scene, place.out)
    (place.photos / "a.png").write_bytes((place.photos / "a.jpg").read_bytes())
    assert main(["match", str(place.out), "--pairs", "spatial", "--images", str(place.photos)]) == 0
    with read_matches(place.out) as matches:
        assert matches.pairs()


def test_spatial_pairs_need_positions(place: Place) -> None:
    place.tag(names=["c"])
    with pytest.raises(PairsError, match=r"a usable GPS position in the EXIF of only 1 of 8 photos; use pairs="):
        place.run(pairs="spatial")
    assert not place.detected
