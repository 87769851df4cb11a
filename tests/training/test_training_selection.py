"""`disk auc`: logs in our format and the original's, with errors of known accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from disk.cli.main import main
from disk.errors import ImageError, TrainingError
from disk.geometry.auc import mean_average_accuracy
from disk.training.logs import Logs, read_scalars
from disk.training.selection import EpochScore, best, plot_scores, validation_scores
from disk.training.validation import PairResult, pose_scalars, summarise

# rotation and translation errors of two validations of four pairs each
ROTATION = [[1.5, 4.5, 12.0, 180.0], [0.5, 0.5, 8.5, 180.0]]
TRANSLATION = [[0.5, 6.5, 1.0, 180.0], [0.2, 2.5, 1.0, 180.0]]


def results(number: int) -> list[PairResult]:
    return [
        PairResult(keypoints=10.0, right=3, wrong=1, rotation=r, translation=t, inliers=5, success=r < 180)
        for r, t in zip(ROTATION[number], TRANSLATION[number], strict=True)
    ]


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    """A log of two epochs, the first numbered 4."""
    logs = Logs(tmp_path, 0)
    for number, step in enumerate((250, 300)):
        logs.write(step, {"train/reward_per_pair": 1.0})
        for result in results(number):
            logs.write(step, pose_scalars(result))
        logs.write(step, {"epoch": 4.0 + number, **summarise(results(number))})
    logs.close()
    return tmp_path


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """Logs as written by the original: one event per pair, steps through all epochs, half the angle."""
    with SummaryWriter(str(tmp_path)) as writer:
        for step, (r, t) in enumerate(zip(np.ravel(ROTATION), np.ravel(TRANSLATION), strict=True)):
            writer.add_scalar("test/pose/Δ_θ", r / 2, step)
            writer.add_scalar("test/pose/Δ_T", t, step)
    return tmp_path


def expected(number: int, half: bool = False) -> float:
    """By hand: errors max(r, t), bins of one degree, cumulated."""
    rotation = np.array(ROTATION[number]) / (2 if half else 1)
    errors = np.maximum(rotation, TRANSLATION[number])
    return float(np.mean([(errors < degrees).mean() for degrees in range(1, 11)]))


def test_our_log(ours: Path) -> None:
    scores = validation_scores(ours)
    assert [(score.epoch, score.pairs) for score in scores] == [(4, 4), (5, 4)]
    assert [score.maa for score in scores] == pytest.approx([expected(0), expected(1)])
    assert best(scores).epoch == 5


def test_legacy_halves_the_angle(ours: Path) -> None:
    scores = validation_scores(ours, legacy=True)
    assert [score.maa for score in scores] == pytest.approx([expected(0, half=True), expected(1, half=True)])
    assert expected(0, half=True) > expected(0)


def test_log_of_the_original(original: Path) -> None:
    file = next(original.glob("*tfevents*"))
    for path in (original, file):
        assert [s.maa for s in validation_scores(path, 4)] == pytest.approx([expected(0), expected(1)])
    legacy = validation_scores(original, 4, legacy=True)
    assert [s.maa for s in legacy] == pytest.approx([expected(0, half=True), expected(1, half=True)])


def test_the_sign_of_a_translation_counts_only_for_the_original(tmp_path: Path) -> None:
    """Its logs have 179 degrees for a translation with only the sign wrong, and success 0 for no pose."""
    with SummaryWriter(str(tmp_path)) as writer:
        for step, (rotation, translation, success) in enumerate([(0.5, 179.0, 1), (0.5, 0.5, 0), (90.0, 180.0, 0)]):
            writer.add_scalar("test/pose/Δ_θ", rotation, step)
            writer.add_scalar("test/pose/Δ_T", translation, step)
            writer.add_scalar("test/pose/success", success, step)
    # one of three pairs has an error of 1 degree: in the nine bins from 2 degrees on
    assert [s.maa for s in validation_scores(tmp_path, 3)] == pytest.approx([0.9 / 3])
    assert [s.maa for s in validation_scores(tmp_path, 3, legacy=True)] == [0]


def test_our_logs_with_the_tags_of_the_original(tmp_path: Path) -> None:
    """Before our tags had distinct names: whole angles, one epoch."""
    logs = Logs(tmp_path, 0)
    for result in results(0):
        logs.write(9, {"test/pose/Δ_θ": result.rotation, "test/pose/Δ_T": result.translation})
    logs.write(9, {"epoch": 3.0})
    logs.close()
    assert [(s.epoch, s.maa) for s in validation_scores(tmp_path)] == [(3, pytest.approx(expected(0)))]


def test_incomplete_validation_is_skipped(original: Path) -> None:
    assert len(validation_scores(original, 3)) == 2
    with pytest.raises(TrainingError, match="8 pairs, less than one validation of 750"):
        validation_scores(original)


def test_more_events_than_tensorboard_keeps_by_default(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(12_000):
            writer.add_scalar("x", step, step)
    assert [value for _, value in read_scalars(tmp_path)["x"]] == list(range(12_000))


def test_resuming_drops_later_logs(ours: Path) -> None:
    logs = Logs(ours, 250)
    logs.write(260, {"train/reward_per_pair": 2.0})
    logs.close()
    assert [score.epoch for score in validation_scores(ours)] == [4]
    assert read_scalars(ours)["train/reward_per_pair"] == [(250, 1.0), (260, 2.0)]
    lines = (ours / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 4 + 1 + 1


def test_a_line_truncated_by_a_crash_is_dropped(ours: Path) -> None:
    path = ours / "log.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + '{"step": 300, "tr', encoding="utf-8")
    Logs(ours, 300).close()
    assert path.read_text(encoding="utf-8").endswith("}\n")


def test_command(ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (ours / "save-5.pth").touch()
    assert main(["auc", str(ours), "--plot", str(tmp_path / "curves.png")]) == 0
    assert f"best: epoch 5, mAA(10) {expected(1):.4f}, {ours / 'save-5.pth'}" in capsys.readouterr().out.replace(
        "\n", " "
    )
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such file"),
        (["."], "contains no TensorBoard files"),
        ([], "give at least one"),
        (["LOG", "--validation-length", "0"], "validation"),
        (["LOG", "--plot", "curves.nothing"], "curves.nothing: cannot draw there"),
    ],
)
def test_bad_input(
    arguments: list[str],
    message: str,
    ours: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    assert main(["auc", *(str(ours) if a == "LOG" else a for a in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_log_without_validation(tmp_path: Path) -> None:
    logs = Logs(tmp_path, 0)
    logs.write(1, {"train/reward_per_pair": 1.0})
    logs.close()
    with pytest.raises(TrainingError, match="nothing validated yet"):
        validation_scores(tmp_path)


@pytest.mark.parametrize(
    ("scalars", "message"),
    [({"epoch": 0.0}, "without poses because poselib was not installed"), ({"loss": 1.0}, "not a training log")],
)
def test_other_logs_without_poses(scalars: dict[str, float], message: str, tmp_path: Path) -> None:
    logs = Logs(tmp_path, 0)
    logs.write(1, scalars)
    logs.close()
    with pytest.raises(TrainingError, match=message):
        validation_scores(tmp_path)


def test_one_of_several_logs_without_validation(
    ours: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    young = tmp_path_factory.mktemp("young")
    logs = Logs(young, 0)
    logs.write(1, {"train/reward_per_pair": 1.0})
    logs.close()
    assert main(["auc", str(young), str(ours)]) == 1
    printed = capsys.readouterr()
    assert "best: epoch 5" in printed.out
    assert f"{young}: nothing validated yet" in printed.err


def test_runs_in_sub_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    Logs(tmp_path / "run", 0).close()
    with pytest.raises(TrainingError, match=f"contains no TensorBoard files .*; give {tmp_path / 'run'}"):
        validation_scores(tmp_path)


def test_summary_of_a_validation() -> None:
    summary = summarise(results(0))
    assert summary["test/precision"] == pytest.approx(0.75)
    assert summary["test/reward_per_pair"] == pytest.approx(3 - 0.25)
    errors = np.maximum(ROTATION[0], TRANSLATION[0])
    assert summary["test/pose/mAA10"] == mean_average_accuracy(errors)


def test_a_plot_replaces_only_plots(tmp_path):
    curves = {"run": [EpochScore(0, 10, 0.5), EpochScore(1, 10, 0.6)]}
    for name in ("a.png", "a.jpg", "a.svg"):
        for _ in range(2):
            plot_scores(curves, tmp_path / name)
    photo = tmp_path / "photo.jpg"
    Image.new("RGB", (8, 8)).save(photo)
    before = photo.read_bytes()
    with pytest.raises(ImageError, match="was not drawn by this program"):
        plot_scores(curves, photo)
    assert photo.read_bytes() == before
