"""Pairs of cameras that fire together: hand-made cases and a property."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disk.errors import PairsError
from disk.pairs.choose import exhaustive
from disk.pairs.rigs import along_and_across, cameras_of, instants

NAMES = ["left/1", "left/2", "left/10", "right/1", "right/10", "right/11"]


def test_along_each_camera_and_across_at_each_instant():
    """right/2 is missing: the images around it are neighbours, and left/2 has no partner across."""
    assert along_and_across(NAMES, 1) == [
        ("left/1", "left/2"), ("left/1", "right/1"), ("left/10", "left/2"), ("left/10", "right/10"),
        ("right/1", "right/10"), ("right/10", "right/11"),
    ]  # fmt: skip


def test_all_images_of_an_instant_have_the_same_number():
    assert instants(NAMES) == {
        "left/1": 0, "right/1": 0, "left/2": 1, "left/10": 2, "right/10": 2, "right/11": 3,
    }  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), unique=True, min_size=2), st.integers(1, 12))
def test_pairs_share_a_camera_or_an_instant(images, overlap):
    names = [f"{camera}/{instant}" for camera, instant in images]
    try:
        cameras_of(names)
    except PairsError:
        return
    pairs = along_and_across(names, overlap)
    assert pairs == sorted(set(pairs))
    assert set(pairs) <= set(exhaustive(names))
    split = [(first.split("/"), second.split("/")) for first, second in pairs]
    assert all((a[0] == b[0]) != (a[1] == b[1]) for a, b in split)
    across = {pair for pair in exhaustive(names) if pair[0].split("/")[1] == pair[1].split("/")[1]}
    assert across <= set(pairs)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["left/1", "left/2"], "a rig needs several cameras, but all images are in one folder, left/"),
        (["left/1", "right/1", "both"], "'both' is not in the folder of a camera"),
        (["left/day/1", "right/day/1"], "'left/day/1' is not in the folder of a camera"),
        (["left/1", "right/1", "up/2"], "no image in up/, such as '2', has the name of an image of another camera"),
    ],
)
def test_folders_that_are_not_a_rig(names, message):
    with pytest.raises(PairsError, match=message):
        along_and_across(names, 3)
