"""The page of a model: one HTML file that shows, offline, what a reconstruction came to."""

from __future__ import annotations

import tempfile
from pathlib import Path

from disk.errors import DiskError
from disk.options import AnyPath
from disk.pipeline.summary import SUMMARY
from disk.progress import log
from disk.viewing.report import is_report, refuse_other_report, write_report

REPORT = "report.html"


def write_model_page(folder: AnyPath, images: AnyPath | None = None, save: AnyPath | None = None) -> Path:
    """Write the page of a model and return its path: `save`/report.html, or report.html beside the model.

    folder: an output of `disk reconstruct`, a COLMAP workspace, or a folder with a COLMAP model; images: its photos, if
    the folder does not tell. Raises ColmapError without a model, ImageError without the folder of photos, ArtifactError
    where another program's report.html would be replaced or nothing can be written, MissingExtraError without plotly.
    """
    from disk.pipeline.report.gather import gather
    from disk.pipeline.report.matches import draw_pairs
    from disk.pipeline.report.sections import model_sections
    from disk.viewing.plots import plot_library
    from disk.viewing.thumbnails import make_thumbnails

    folder = Path(folder)
    path = Path(save or folder) / REPORT
    refuse_other_report(path)
    library = plot_library()
    facts = gather(folder, None if images is None else Path(images))
    files = facts.files()
    thumbnails = make_thumbnails(files)
    with tempfile.TemporaryDirectory() as scratch:
        pictures = draw_pairs(facts, files, Path(scratch))
        sections = model_sections(facts, thumbnails, pictures)
        where = facts.photos or folder
        seconds = sum(facts.summary.seconds.values()) if facts.summary else 0
        made = f" in {seconds:,.0f} s" if seconds else ""
        intro = f"What {len(facts.names):,} photos came to{made}. This page is one file, and needs no network."
        return write_report(path, f"Model of {where.resolve().name}", intro, sections, library)


def keep_page(folder: Path, images: Path) -> None:
    """Write the page of a model that `disk reconstruct` has just made or found complete, unless it is newer.

    The model is done, so what keeps its page from being written is only said.
    """
    page = folder / REPORT
    if is_report(page) and page.stat().st_mtime >= (folder / SUMMARY).stat().st_mtime:
        return
    try:
        write_model_page(folder, images)
    except DiskError as error:
        log.warning("%s is not written: %s", page, error)
