"""`disk dataset`: render, import, merge, check and download training data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from disk.cli.app import run_group
from disk.datasets import check as checking
from disk.datasets import import_colmap as importing
from disk.datasets import merge as merging
from disk.datasets.download import DISK_DATA_URL, download_disk_data, list_files
from disk.datasets.import_colmap import ImportOptions
from disk.datasets.synthesis import write as writing
from disk.datasets.synthesis.write import SynthesizeOptions
from disk.errors import PartialFailureError
from disk.progress import counted


def import_colmap(workspace: Positional[Path], options: ImportOptions = ImportOptions()) -> None:
    """Make a data set from a COLMAP workspace or an output of `disk reconstruct`.

    Writes calibrations, depth maps if COLMAP has them, and dataset.json with tuples of overlapping images. Undistorts
    images of cameras that are not pinhole cameras.

    Args:
        workspace: Folder with sparse/, and images/ unless --images is given.
        options: Options of the import.
    """
    importing.import_colmap(workspace, options)


def merge(
    jsons: Annotated[Positional[list[Path]], arg(metavar="DATASET ...")],
    out: Path = Path("merged.json"),
    relative: bool = False,
) -> None:
    """Merge several data sets into one dataset.json; their files stay where they are.

    Args:
        jsons: dataset.json files, or their folders.
        out: File to write; `disk train DATA` reads DATA/train/dataset.json.
        relative: Write folders relative to the new file, so that everything can be moved together.
    """
    scenes = merging.merge(jsons, out, relative)
    print(f"{out}: {counted(len(scenes), 'scene')}, {counted(sum(len(scene.tuples) for scene in scenes), 'tuple')}")


def check(data: Positional[Path]) -> None:
    """Read a whole data set and report its problems; exit code 1 if there are any.

    Finds missing and damaged files, invalid rotations, values that are not finite, tuples without overlap.

    Args:
        data: dataset.json, its folder, or a folder with train/ and test/.
    """
    from rich.console import Console
    from rich.table import Table

    reports = checking.check(data)
    table = Table("scene", "images", "with depth", "tuples", "problems")
    for report in reports:
        numbers = (report.images, report.with_depth, report.tuples, len(report.problems))
        table.add_row(report.name, *map(str, numbers))
        for problem in report.problems:
            print(f"{report.name}: {problem}")
    Console().print(table)
    found = sum(len(report.problems) for report in reports)
    if found:
        raise PartialFailureError(f"{data}: {counted(found, 'problem')}, listed above")


def download(out: Positional[Path], url: str = DISK_DATA_URL, list: bool = False) -> None:
    """Download the authors' data set: 164 GB, 138 scenes; an interrupted download resumes.

    Verifies, unpacks and links every file so that `disk train OUT` can start.

    Args:
        out: Folder to write.
        url: The authors' server or a mirror.
        list: Only list the files and which of them are present.
    """
    if not list:
        download_disk_data(out, url)
        return
    files = list_files(out, url)
    for file in files:
        print(f"{'present' if file.here else 'missing'}  {file.path}")
    print(f"{sum(file.here for file in files)} of {len(files)} files are present")


def synthesize(
    photos: Positional[Path], out: Positional[Path], options: SynthesizeOptions = SynthesizeOptions()
) -> None:
    """Render posed scenes with exact depth from a folder of photographs.

    Args:
        photos: Folder of images, sub-folders included.
        out: Folder to write.
        options: Options of rendering.
    """
    writing.synthesize(photos, out, options)


COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "import-colmap": (import_colmap, "disk dataset import-colmap model/ --images photos/"),
    "merge": (merge, "disk dataset merge rock/dataset lewis/dataset --out train/dataset.json"),
    "check": (check, "disk dataset check data/"),
    "download": (download, "disk dataset download disk-data/"),
    "synthesize": (synthesize, "disk dataset synthesize photos/ data/train --scenes 20 --seed 1"),
}


def main(argv: list[str]) -> int:
    return run_group(COMMANDS, argv, "dataset", "Training data.") or 0
