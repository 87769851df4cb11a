"""`disk auc`: choosing the best checkpoint from training logs."""

from __future__ import annotations

from pathlib import Path

import tyro

from disk.cli.app import run


def main(argv: list[str]) -> int:
    """Run the command."""
    run(_auc, argv, "auc", "disk auc run/ --plot curves.png")
    return 0


def _auc(
    logs: tyro.conf.Positional[list[Path]],
    validation_length: int | None = None,
    legacy: bool = False,
    plot: Path | None = None,
) -> None:
    """Print the pose accuracy mAA(10) after each epoch and the best checkpoint, from training logs.

    Args:
        logs: Save dirs of `disk train`, or TensorBoard files, ours or the original's.
        validation_length: Number of pairs per validation; required for the original's logs if it is not 750.
        legacy: Score as the original: halved rotation angles, signed translations (the sign is not in our own logs).
        plot: Image file for a plot of the curves.
    """
    from rich.console import Console
    from rich.table import Table

    from disk.errors import PartialFailureError, TrainingError
    from disk.training.selection import EpochScore, best, plot_scores, validation_scores

    if not logs:
        raise TrainingError("give at least one save dir or TensorBoard file")
    curves: dict[str, list[EpochScore]] = {}
    failures: list[TrainingError] = []
    for log in logs:
        try:
            curves[str(log)] = validation_scores(log, validation_length, legacy)
        except TrainingError as error:
            failures.append(error)
    if not curves:
        raise TrainingError("; ".join(map(str, failures)))
    console = Console()
    for name, scores in curves.items():
        table = Table("epoch", "pairs", "mAA(10)", title=name)
        chosen = best(scores)
        for score in scores:
            mark = "  best" if score == chosen else ""
            table.add_row(str(score.epoch), str(score.pairs), f"{score.maa:.4f}{mark}")
        console.print(table)
        folder = Path(name) if Path(name).is_dir() else Path(name).parent
        checkpoint = folder / f"save-{chosen.epoch}.pth"
        where = f", {checkpoint}" if checkpoint.exists() else ""
        print(f"best: epoch {chosen.epoch}, mAA(10) {chosen.maa:.4f}{where}")
    if plot is not None:
        plot_scores(curves, plot)
    if failures:
        raise PartialFailureError("; ".join(map(str, failures)))
