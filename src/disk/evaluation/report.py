"""Reports on several methods side by side: a table on the terminal, JSON, and curves."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from disk.errors import EvaluationError
from disk.options import option
from disk.storage.new_file import write_json

Value = float | int | str | None


@dataclass(frozen=True)
class Result:
    """Results of one method (with one estimator).

    figures: by group (a split or a scene; one group named "" if there are none), then by name.
    curve: x and y for --plot.
    details: other data for --json.
    """

    label: str
    figures: dict[str, dict[str, Value]]
    curve: tuple[Sequence[float | int], Sequence[float]] | None = None
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """A table with methods as columns and figures as rows.

    note: a remark on how the figures were obtained.
    formats: format of each figure, by name; default: `.1f`.
    axes: labels of the axes of the curves.
    details: other data for --json, such as the pairs, in the order of all lists of errors.
    """

    title: str
    results: list[Result]
    note: str = ""
    formats: dict[str, str] = field(default_factory=dict)
    axes: tuple[str, str] = ("", "")
    details: dict[str, Any] = field(default_factory=dict)


def check_outputs(json_file: Path | None, plot: Path | None) -> None:
    """Raise EvaluationError before the evaluation starts if an output file cannot be written."""
    for path in (json_file, plot):
        if path is not None and not path.absolute().parent.is_dir():
            raise EvaluationError(f"cannot write {path}: no such folder {path.absolute().parent}")
        if path is not None and path.is_dir():
            raise EvaluationError(f"cannot write {path}: it is a folder")
    if json_file is not None and json_file.exists() and json_file.suffix.lower() != ".json":
        raise EvaluationError(
            f"{option('json', str(json_file))}: the file exists and its name does not end in .json; choose another name"
        )
    if plot is not None and plot.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise EvaluationError(f"{option('plot', str(plot))}: the name must end in .png, .svg or .pdf")
    if plot is not None and plot.exists():
        from disk.viewing.canvas import refuse_other_picture

        refuse_other_picture(plot)


def write_report(report: Report, options: Any, json_file: Path | None, plot: Path | None) -> None:
    """Print the table; write JSON and curves if a file is given."""
    print_table(report)
    if json_file is not None:
        write_json(json_file, as_json(report, options))
    if plot is not None:
        plot_curves(report, plot)


def print_table(report: Report) -> None:
    """Print the table to stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    table.add_column("")
    for result in report.results:
        table.add_column(result.label, justify="right")
    for group in dict.fromkeys(group for result in report.results for group in result.figures):
        if group:
            table.add_row(f"[bold]{group}[/bold]")
        names = dict.fromkeys(name for r in report.results for name in r.figures.get(group, {}))
        for name in names:
            values = [result.figures.get(group, {}).get(name) for result in report.results]
            table.add_row(name, *(_written(value, report.formats.get(name, ".1f")) for value in values))
        table.add_section()
    # without a terminal, as wide as necessary
    console = Console(width=None if sys.stdout.isatty() else 40 + 30 * len(report.results), highlight=False)
    console.print(report.title, soft_wrap=True, markup=False)
    console.print(table)
    if report.note:
        console.print(report.note, soft_wrap=True, markup=False)


def _written(value: Value, form: str) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return value if isinstance(value, str) else format(value, form)


def as_json(report: Report, options: Any) -> dict[str, Any]:
    """The whole report as plain data; infinite and undefined numbers become null."""
    from importlib.metadata import version

    results = [{"label": result.label, "figures": result.figures, **result.details} for result in report.results]
    plain: dict[str, Any] = _plain(
        {
            "version": version("disk-features"),
            "title": report.title,
            "note": report.note,
            "options": dataclasses.asdict(options),
            "results": results,
            **report.details,
        }
    )
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def plot_curves(report: Report, file: Path) -> None:
    """Plot the curve of each method to a file."""
    from matplotlib.figure import Figure

    from disk.viewing.canvas import save

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    for result in report.results:
        if result.curve is not None:
            axes.plot(*result.curve, label=result.label)
    axes.set(title=report.title, xlabel=report.axes[0], ylabel=report.axes[1], ylim=(0, 1))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, file, dpi=150)
