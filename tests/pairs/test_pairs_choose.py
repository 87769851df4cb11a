"""Pairs: hand-made cases and properties."""

from __future__ import annotations

from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from disk.errors import DiskError, PairsError
from disk.pairs.choose import connected, exhaustive, from_file, sequential

_names = st.lists(st.text("ab1/", min_size=1, max_size=4), unique=True, max_size=12)


@given(_names)
def test_exhaustive_has_every_pair_once(names):
    pairs = exhaustive(names)
    assert len(pairs) == len(set(pairs)) == len(names) * (len(names) - 1) // 2
    assert all(a < b and {a, b} <= set(names) for a, b in pairs)
    assert pairs == sorted(pairs)


@given(_names, st.integers(1, 15))
def test_sequential_is_part_of_exhaustive_and_all_of_it_for_a_wide_overlap(names, overlap):
    pairs = sequential(names, overlap)
    assert set(pairs) <= set(exhaustive(names))
    assert pairs == sorted(set(pairs))
    if overlap >= len(names) - 1:
        assert pairs == exhaustive(names)
    else:
        assert len(pairs) == overlap * len(names) - overlap * (overlap + 1) // 2


def test_sequential_counts_numbers_as_numbers():
    names = ["f10", "f9", "f1", "f2"]
    assert sequential(names, 1) == [("f1", "f2"), ("f10", "f9"), ("f2", "f9")]


def test_sequential_orders_names_that_mix_text_and_numbers():
    assert sequential(["7", "a", "b/2", "b/10", "b"], 1) == [("7", "a"), ("a", "b"), ("b", "b/2"), ("b/10", "b/2")]


def test_an_overlap_of_zero_is_refused():
    with pytest.raises(DiskError, match="overlap"):
        sequential(["a", "b"], 0)


def write(folder: Path, text: str) -> Path:
    path = folder / "pairs.txt"
    path.write_text(text, encoding="utf-8")
    return path


NAMES = ["a", "b", "sub/c", "with space", "with", "v1.2", "ünï"]


def test_a_list_takes_names_with_or_without_extension(tmp_path):
    path = write(
        tmp_path,
        "# a comment\n\nb a\na.jpg b.JPG\n sub/c.png\ta \n./a v1.2.jpeg\nsub\\c v1.2\nünï.tif a\n"
        "with space.jpg a\na with space\na with 1 0 0 0 1 0 0 0 1\n",
    )
    assert from_file(path, NAMES) == [
        ("a", "b"),
        ("a", "sub/c"),
        ("a", "v1.2"),
        ("a", "with"),
        ("a", "with space"),
        ("a", "ünï"),
        ("sub/c", "v1.2"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b\na nowhere.jpg\n", r"line 2: no features of 'nowhere\.jpg'"),
        ("\n\nnowhere b\n", "line 3: no features of 'nowhere'"),
        ("a b\n\na\n", "line 3: expected two image names, got 'a'"),
        ("a.jpg a.png\n", "line 1: 'a' is paired with itself"),
        ("# nothing\n", "holds no pairs"),
        ("", "holds no pairs"),
    ],
)
def test_a_bad_list_is_refused_with_the_line(tmp_path, text, message):
    with pytest.raises(PairsError, match=message):
        from_file(write(tmp_path, text), NAMES)


def test_a_list_that_is_missing_a_folder_or_binary_is_refused(tmp_path):
    with pytest.raises(PairsError, match="cannot read"):
        from_file(tmp_path / "none.txt", NAMES)
    with pytest.raises(PairsError, match="cannot read"):
        from_file(tmp_path, NAMES)
    (tmp_path / "binary").write_bytes(b"\x89PNG\xff\xfe\x00")
    with pytest.raises(PairsError, match="not a text file"):
        from_file(tmp_path / "binary", NAMES)


def test_groups_connected_by_pairs():
    pairs = [("a", "b"), ("x", "y"), ("c", "d"), ("b", "c"), ("p", "q"), ("q", "r")]
    assert connected(pairs) == [["a", "b", "c", "d"], ["p", "q", "r"], ["x", "y"]]
    assert connected([]) == []


@given(st.lists(st.tuples(_name := st.sampled_from("abcdefg"), _name).filter(lambda pair: pair[0] != pair[1])))
def test_groups_hold_every_image_once_and_no_pair_leaves_its_group(pairs):
    groups = connected(pairs)
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted({name for pair in pairs for name in pair})
    for first, second in pairs:
        assert any(first in group and second in group for group in groups)


def test_a_long_chain_is_followed_in_less_than_quadratic_time():
    pairs = [(f"{i:06}", f"{i + 1:06}") for i in range(10_000)]
    start = process_time()
    (group,) = connected(pairs)
    assert process_time() - start < 2  # copying the group at each pair takes 10
    assert group == [f"{i:06}" for i in range(10_001)]
