"""Creates a training scene from a COLMAP workspace or one of our reconstructions."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from disk.datasets.covisibility import choose_tuples, covisibility
from disk.datasets.files import Calibration, find_depth, write_calibration, write_depth
from disk.datasets.scenes import Scene, SceneSet, write_dataset_json
from disk.errors import ColmapError, DatasetError, PartialFailureError
from disk.options import AnyPath, Options, check_at_least, option
from disk.progress import counted, log, track
from disk.shapes import Float, Int
from disk.storage.names import image_name

if TYPE_CHECKING:
    from disk.colmap.workspace import Workspace, WorkspaceImage


@dataclass(frozen=True, kw_only=True)
class ImportOptions(Options):
    """How to make a data set from a COLMAP workspace."""

    name: str | None = None
    """Name of the scene; default: the name of the workspace folder."""
    images: Path | None = None
    """Folder of the images; default: WORKSPACE/images. Required for an output of `disk reconstruct`."""
    out: Path | None = None
    """Folder to write; default: WORKSPACE/dataset."""
    no_depth: bool = False
    """Skip depth maps; training then uses the epipolar reward."""
    tuple_size: int = 3
    """Number of images per tuple."""
    min_overlap: float = 0.5
    """Minimum covisibility of the images of a tuple: shared 3D points over the smaller number of points."""
    max_overlap: float = 0.8
    """Maximum covisibility of the images of a tuple."""
    relative: bool = False
    """Write folders relative to dataset.json, so that everything can be moved together."""


def import_colmap(workspace: AnyPath, options: ImportOptions = ImportOptions()) -> Scene:
    """Create a data set of one scene from a COLMAP workspace or a `disk reconstruct` result.

    If a camera is not a pinhole, the images are undistorted into the data set's folder.

    Raises ColmapError or DatasetError if no data set can be created, PartialFailureError at the end if images or depth
    maps were skipped.
    """
    # imported here so that the other dataset commands run without pycolmap
    from disk.colmap.undistortion import undistort, undistorted_name
    from disk.colmap.workspace import open_workspace, usable_images

    workspace = Path(workspace)
    check_at_least(options, tuple_size=2)
    if not 0 < options.min_overlap <= options.max_overlap <= 1:
        raise DatasetError(
            f"{option('min_overlap', options.min_overlap)}, {option('max_overlap', options.max_overlap)}: must satisfy "
            "0 < min <= max <= 1"
        )
    source = open_workspace(workspace, options.images)
    out = workspace / "dataset" if options.out is None else options.out
    name = workspace.resolve().name if options.name is None else options.name
    usable, failed = usable_images(source)
    faults = list(failed.values())
    if not usable:
        raise DatasetError(f"{source.image_folder}: none of the model's images can be used: {faults[0]}")
    tuples = _tuples(source.model, usable, options)
    used = [usable[index] for index in np.unique(tuples)]
    tuples = np.searchsorted(np.unique(tuples), tuples)
    has_depth = not options.no_depth and any(source.depth_map(image.name) for image in used)
    if source.distorted and has_depth:
        raise ColmapError(
            f"{workspace}: the depth maps are of undistorted images, but the model has {', '.join(source.distorted)} "
            f"cameras; give the folder that COLMAP's image_undistorter wrote, or {option('no_depth', True)}"
        )

    _refuse_another_scene(out / "dataset.json", source.image_folder)
    # from here on, an older data set in this folder is invalid; the new json is written last
    out.mkdir(parents=True, exist_ok=True)
    (out / "dataset.json").unlink(missing_ok=True)
    if source.distorted:
        log.info("undistorting %s (%s cameras)", counted(len(used), "image"), ", ".join(source.distorted))
        names = [image.name for image in used]
        shutil.rmtree(out / "undistorted", ignore_errors=True)  # may belong to another model
        source = undistort(source, names, out / "undistorted")
        by_name = {image.name: image for image in source.images}
        used = [by_name[undistorted_name(name)] for name in names]
    for image in used:
        write_calibration(out / "calibration", image.name, Calibration(image.K, image.R, image.t))
    scene = Scene(
        name=name,
        image_path=source.image_folder,
        calib_path=out / "calibration",
        depth_path=out / "depth" if has_depth else None,
        images=[image.name for image in used],
        tuples=tuples,
    )
    if scene.depth_path is not None:
        faults += _write_depths(source, used, scene.depth_path)
    elif not options.no_depth:
        log.info("%s: no depth maps; training will use the epipolar reward", workspace)
    write_dataset_json(out / "dataset.json", [scene], options.relative)
    uses = np.bincount(tuples.ravel())
    log.info(
        "%s: %s of %d, %d of %d images, each in %d to %d tuples (median %d)",
        out / "dataset.json", counted(len(tuples), "tuple"), options.tuple_size, len(used), len(usable),
        uses.min(), uses.max(), np.median(uses),
    )  # fmt: skip
    if faults:
        raise PartialFailureError(f"{out}: done, but skipped {counted(len(faults), 'file')}: {'; '.join(faults)}")
    return scene


def _refuse_another_scene(path: Path, images: Path) -> None:
    """Raise DatasetError if writing would replace a data set of other images."""
    try:
        scenes = SceneSet.load(path).scenes if path.exists() else []
    except DatasetError:
        return  # left by an unfinished run
    # undistorted images are in the data set's own folder
    others = [scene.name for scene in scenes if scene.image_path.resolve() != images.resolve()]
    if others and not (path.parent / "undistorted").is_dir():
        raise DatasetError(
            f"{path} contains the scene {others[0]} of other images; choose another {option('out')} and join the two "
            "with `disk dataset merge`"
        )


def _tuples(model: Path, images: Sequence[WorkspaceImage], options: ImportOptions) -> np.ndarray:
    if not any(len(image.points) for image in images):
        raise DatasetError(
            f"{model} has poses but no 3D points, which are needed to find overlapping images; create them with "
            f"`disk triangulate {model} IMAGES OUT` and import OUT"
        )
    overlap = covisibility([image.points for image in images])
    covisible = (overlap >= options.min_overlap) & (overlap <= options.max_overlap)
    tuples = choose_tuples(covisible, options.tuple_size)
    _report_left_out(overlap, tuples, options)
    if not len(tuples):
        pairs = overlap[np.triu_indices(len(images), 1)]
        best = f"the best pair shares {pairs.max():.2f}" if len(pairs) else "there is only one image"
        raise DatasetError(
            f"{model}: no {options.tuple_size} images share {options.min_overlap:g} to {options.max_overlap:g} "
            f"of their 3D points in each pair ({best}); try {option('min_overlap', 0.1)} or a smaller "
            f"{option('tuple_size')}"
        )
    return tuples


def _report_left_out(overlap: Float[np.ndarray, "n n"], tuples: Int[np.ndarray, "m k"], options: ImportOptions) -> None:
    """Report how many images that share points with others are in no tuple, and how to include them."""
    others = np.triu(overlap, 1)
    within = (others >= options.min_overlap) & (others <= options.max_overlap)
    sharing, paired, used = (np.unique(x) for x in (np.argwhere(others > 0), np.argwhere(within), tuples))
    if 0 < len(used) < len(sharing):
        smaller = ""
        if len(paired) > len(used):
            smaller = (
                f"{option('tuple_size', 2)} would use {len(paired)} images in {counted(int(within.sum()), 'pair')}, "
            )
        log.warning(
            "%d of %d images are in no tuple of %d: %sa lower %s uses more",
            len(sharing) - len(used), len(sharing), options.tuple_size, smaller, option("min_overlap"),
        )  # fmt: skip


def _write_depths(source: Workspace, images: Sequence[WorkspaceImage], folder: Path) -> list[str]:
    """Convert the depth maps of the images; returns one message per unreadable map."""
    from disk.colmap.workspace import read_depth_map

    # a.jpg and a.png would share a.h5, so these keep their extension
    stems = Counter(image_name(image.name) for image in images)
    faults, without = [], 0
    for image in track(images, "depth maps", "image", len(images)):
        stale = find_depth(folder, image.name)  # from an earlier import, perhaps at another scale
        if stale is not None:
            stale.unlink()
        path = source.depth_map(image.name)
        if path is None:
            without += 1
            continue
        try:
            depth = read_depth_map(path)
        except ColmapError as error:
            faults.append(str(error))
            continue
        depth = np.where(np.isfinite(depth) & (depth > 0), depth, 0)
        twice = stems[image_name(image.name)] > 1
        write_depth(folder, image.name, depth, keep_extension=twice)
    if without:
        log.info("no depth map for %d of %d images: their depth counts as unknown", without, len(images))
    return faults
