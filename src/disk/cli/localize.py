"""`disk localize`: localizing photos in a model."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from disk.cli.app import AsJson, run, show_result
from disk.pipeline import localize as stage
from disk.pipeline.localize import Localization, LocalizeOptions
from disk.progress import counted


def localize(
    model: Positional[Path],
    queries: Positional[Path],
    out: Positional[Path],
    options: LocalizeOptions = LocalizeOptions(),
    json: AsJson = False,
) -> None:
    """Localize photos in a model of other photos.

    Writes OUT/poses.json (pose, camera, inliers and standard deviations of each photo, or why it was not localized) and
    OUT/sparse/0, a COLMAP model of the localized photos. Finished photos are skipped: after an interruption the same
    command resumes.

    Args:
        model: Output folder of `disk reconstruct`.
        queries: Folder of photos, sub-folders included, or one photo.
        out: Folder for the results, created if missing.
        options: Options of matching, and what is known about the cameras.
    """
    show_result(lambda: stage.localize(model, queries, out, options), lambda result: _show(result, out), json)


def _show(result: Localization, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("photo", "inliers", "error (px)", "position", "± position", "± rotation (°)", "camera from")
    for name, photo in result.photos.items():
        if photo.found and photo.centre:
            table.add_row(
                name,
                f"{photo.inliers:,} of {photo.matches:,}",
                f"{photo.error:.2f}",
                " ".join(f"{value:.3f}" for value in photo.centre),
                "unknown" if photo.position_sigma is None else f"{photo.position_sigma:.2g}",
                "unknown" if photo.rotation_sigma is None else f"{photo.rotation_sigma:.2g}",
                photo.camera_from,
            )
    console = Console(soft_wrap=True)
    if table.row_count:
        console.print(table)
    lines = [f"{result.found} of {counted(len(result.photos), 'photo')} localized; poses in {out / stage.POSES}"]
    lines += [f"not localized: {name}: {photo.reason}" for name, photo in result.photos.items() if not photo.found]
    lines += [f"could not be read: {reason}" for reason in result.failed.values()]
    for line in lines:
        console.print(line, highlight=False, markup=False)


def main(argv: list[str]) -> int:
    run(localize, argv, "localize", "disk localize model/ queries/ located/ --camera model")
    return 0
