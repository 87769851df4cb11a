"""`disk auc`: choose the best checkpoint from training logs."""

from __future__ import annotations

from pathlib import Path

import tyro

from disk.cli.app import run


def main(argv: list[str]) -> int:
    """Run the command."""
    run(_auc, argv, "auc", "disk auc run/ --plot auc.png")
    return 0


def _auc(
    logs: tyro.conf.Positional[list[Path]],
    validation_length: int | None = None,
    legacy: bool = False,
    plot: Path | None = None,
) -> None:
    """Accuracy of poses after each epoch, and the best checkpoint, from the TensorBoard files of trainings.

    Args:
        logs: save dirs of `disk train`, or TensorBoard files, ours or the original's
        validation_length: pairs in one validation; needed for logs of the original with other than 750
        legacy: score as the original did, by half the angle of rotation
        plot: image file to draw the curves into
    """
    from rich.console import Console
    from rich.table import Table

    from disk.errors import TrainingError
    from disk.training.selection import best, plot_auc, validation_auc

    if not logs:
        raise TrainingError("give at least one save dir or TensorBoard file")
    curves = {str(log): validation_auc(log, validation_length, legacy) for log in logs}
    console = Console()
    for log, scores in curves.items():
        table = Table("epoch", "pairs", "AUC@10°", title=log)
        chosen = best(scores)
        for score in scores:
            mark = "  best" if score == chosen else ""
            table.add_row(str(score.epoch), str(score.pairs), f"{score.auc:.4f}{mark}")
        console.print(table)
        folder = Path(log) if Path(log).is_dir() else Path(log).parent
        checkpoint = folder / f"save-{chosen.epoch}.pth"
        print(f"best: epoch {chosen.epoch}, AUC {chosen.auc:.4f}" + (f", {checkpoint}" if checkpoint.exists() else ""))
    if plot is not None:
        plot_auc(curves, plot)
