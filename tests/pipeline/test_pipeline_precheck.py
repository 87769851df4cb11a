"""Checks before the work starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from disk.errors import ArtifactError, ImageError
from disk.images.listing import list_images
from disk.pairs.choose import connected
from disk.pipeline.precheck import check_output, check_room, describe_groups, read_sizes

PAIRS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)).filter(lambda pair: pair[0] < pair[1]), max_size=20)


@given(PAIRS)
def test_groups_are_the_connected_components(numbers: list[tuple[int, int]]) -> None:
    groups = connected([(f"{a:02d}", f"{b:02d}") for a, b in numbers])
    used = sorted({number for pair in numbers for number in pair})
    rows, columns = np.array(numbers, int).reshape(-1, 2).T
    _, labels = connected_components(coo_matrix((np.ones(len(rows)), (rows, columns)), (13, 13)), directed=False)
    expected = {frozenset(f"{i:02d}" for i in used if labels[i] == label) for label in labels[used]}
    assert {frozenset(group) for group in groups} == expected
    assert [len(group) for group in groups] == sorted(map(len, groups), reverse=True)


def test_groups_in_words() -> None:
    groups = connected([("a", "b"), ("b", "c"), ("c", "d"), ("e", "f"), ("g", "h"), ("i", "j")])
    assert describe_groups(groups) == "4 groups: a, b, c, ...; e, f; g, h; ..."


def test_sizes_from_headers(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"no image")
    sizes, failed = read_sizes(list_images(tmp_path))
    assert sizes == {"a": (64, 48)}
    assert list(failed) == ["b.jpg"]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(ImageError, match=r"none of the images could be read \(1\); the first: .*b\.jpg"):
        read_sizes(list_images(tmp_path))


@pytest.mark.parametrize(
    ("n", "max_size", "need"),
    # 12 MP at 1,600 x 1,200 have some 19,200 keypoints of 4 x 131 bytes, stored twice for a while
    [(2048, 1600, 2 * 2048 * 524), (None, 1600, 2 * 19200 * 524), (None, 0, 2 * 120000 * 524)],
)
def test_disk_space_for_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int | None, max_size: int, need: int
) -> None:
    usage = shutil.disk_usage(tmp_path)
    sizes = {str(number): (4000, 3000) for number in range(10)}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10 * need))
    check_room(tmp_path / "not" / "there", sizes, n, max_size)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10 * need - 1))
    with pytest.raises(ArtifactError, match="the features of 10 images need about"):
        check_room(tmp_path / "not" / "there", sizes, n, max_size)


def test_an_invalid_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="it is a file"):
        check_output([], tmp_path / "file" / "model", False)
