"""Blocks of rows."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from disk.blocks import blocks, rows_at_once

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@given(st.integers(0, 50), st.integers(1, 60))
def test_blocks_cover_all_rows_once_in_order(count: int, step: int) -> None:
    rows = list(range(count))
    found = [rows[block] for block in blocks(count, step)]
    assert [row for block in found for row in block] == rows
    assert all(len(block) == step for block in found[:-1])
    assert all(block.stop <= count for block in blocks(count, step))


def test_a_block_keeps_to_the_limit_and_has_at_least_one_row() -> None:
    most = {"cpu": 100, "other": 1000}
    assert [rows_at_once(entries, CPU, most) for entries in (0, 1, 33, 100, 101)] == [100, 100, 3, 1, 1]
    assert rows_at_once(33, GPU, most) == 30
