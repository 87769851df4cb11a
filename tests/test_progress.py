"""Bars on a terminal, lines elsewhere."""

from __future__ import annotations

import logging

import pytest

import disk.bars as bars
import disk.progress as progress


def test_a_hidden_bar_logs_its_progress_in_lines(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(bars, "perf_counter", lambda: float(next(now)))
    caplog.set_level(logging.INFO, "disk")
    with progress.progress_bar("match", "pair", total=20, initial=10) as bar:
        for _ in range(8):
            bar.update(1)
    # 10 s per step, a line after more than 30 s: at steps 4 and 8
    assert [" ".join(line.split()) for line in caplog.messages] == [
        "match: 14 of 20, 10.00s/pair, 01:00 left",
        "match: 18 of 20, 10.00s/pair, 00:20 left",
    ]


def test_bytes_and_values_of_the_last_step(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = iter((0.0, 40.0, 80.0))
    monkeypatch.setattr(bars, "perf_counter", lambda: next(now))
    caplog.set_level(logging.INFO, "disk")
    with progress.progress_bar("weights", "B", total=None) as bar:
        bar.update(4_000_000)
        bar.set_postfix({"reward": "1.0"}, refresh=False)
        bar.update(4_000_000)
    assert [" ".join(line.split()) for line in caplog.messages] == [
        "weights: 4.00M, 100kB/s",
        "weights: 8.00M, 100kB/s, reward=1.0",
    ]


def test_quiet_means_no_lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(bars, "_LOG_EVERY", -1.0)
    caplog.set_level(logging.WARNING, "disk")
    assert list(progress.track(range(3), "count", "number")) == [0, 1, 2]
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (0, ("photo",), "0 photos"),
        (1, ("photo",), "1 photo"),
        (2, ("photo",), "2 photos"),
        (1, ("match", "matches"), "1 match"),
        (3, ("match", "matches"), "3 matches"),
    ],
)
def test_counts_agree_with_their_nouns(count: int, words: tuple[str, ...], said: str) -> None:
    assert progress.counted(count, *words) == said
