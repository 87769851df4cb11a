"""The page of a model: one HTML file that shows the result of a reconstruction offline."""

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
    """Write the page of a model; return its path.

    folder: an output of `disk reconstruct`, a COLMAP workspace, or a folder with a COLMAP model
    images: folder of the photos; default: the one recorded in the summary, or folder/images
    save: folder for report.html; default: `folder`

    Raises ColmapError without a model, ImageError if the folder of photos is missing, ArtifactError if another
    program's report.html would be replaced or the page cannot be written, MissingExtraError without plotly.
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
        intro = f"The result of {len(facts.names):,} photos{made}. This page is a single file and needs no network."
        return write_report(path, f"Model of {where.resolve().name}", intro, sections, library)


def keep_page(folder: Path, images: Path) -> None:
    """Write the page of a model unless it is current; an error is only logged, because the model itself is done."""
    page = folder / REPORT
    if is_report(page) and page.stat().st_mtime >= (folder / SUMMARY).stat().st_mtime:
        return
    try:
        write_model_page(folder, images)
    except DiskError as error:
        log.warning("cannot write %s: %s", page, error)
