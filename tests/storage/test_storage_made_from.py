"""The note that says what results were made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from disk.storage.made_from import MADE_FROM, made_from, note_made_from


def test_a_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    note_made_from(tmp_path, {"made of": "0123", "images": ["a", "b"], "seed": 0})
    assert made_from(tmp_path) == {"made of": "0123", "images": ["a", "b"], "seed": 0}
    assert [path.name for path in tmp_path.iterdir()] == [".made-from.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"7", b"\xff\xfe"])
def test_a_damaged_note_says_nothing(tmp_path: Path, content: bytes) -> None:
    assert made_from(tmp_path) == {}
    (tmp_path / MADE_FROM).write_bytes(content)
    assert made_from(tmp_path) == {}
