"""Undistorting images and their model, in the folder layout that splatting code reads."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from disk.errors import ArtifactError, ImageError, PartialFailureError
from disk.images.listing import ImageFile, named
from disk.images.masks import find_masks
from disk.options import AnyPath, Options, check_at_least, option
from disk.pipeline.summary import SUMMARY, read_summary
from disk.progress import counted, log
from disk.storage.locks import folder_lock
from disk.storage.made_from import MADE_FROM, made_from, note_made_from
from disk.storage.names import image_name
from disk.storage.new_file import new_file
from disk.storage.transforms import Frame, write_transforms

if TYPE_CHECKING:
    from disk.colmap.workspace import Workspace, WorkspaceImage

_POINTS = "sparse_pc.ply"  # as nerfstudio calls it
_WRITTEN = ("images", "masks", "sparse", "transforms.json", _POINTS)


@dataclass(frozen=True, kw_only=True)
class UndistortOptions(Options):
    """What to undistort and what to write."""

    mask_dir: Path | None = None
    """Folder of masks to undistort as well. The mask of image.jpg is image.jpg.png, as in COLMAP, or image.png."""
    images: Path | None = None
    """Folder of the model's images; default: the one used by `disk reconstruct`, or MODEL/images."""
    max_size: int = 0
    """Shrink images whose long side exceeds this many pixels; 0: never."""
    transforms: bool = False
    """Also write transforms.json and sparse_pc.ply, for nerfstudio and instant-ngp."""
    overwrite: bool = False
    """Replace existing results, even those of another program."""


@dataclass(frozen=True)
class Undistorted:
    """The files written.

    folder: of the results
    images: number of images
    masks: number of masks
    width, height: of the largest image, in pixels
    cameras: the camera models that were undistorted
    failed: images of the model that were skipped, and why
    """

    folder: str
    images: int
    masks: int
    width: int
    height: int
    cameras: list[str]
    failed: dict[str, str]


def undistort(model: AnyPath, out: AnyPath, options: UndistortOptions = UndistortOptions()) -> Undistorted:
    """Write out/images, out/sparse/0 with PINHOLE cameras and, on request, out/masks and out/transforms.json.

    Resumes an interrupted run; starts over if the model, the images or the masks have changed.
    model: folder of `disk reconstruct`, or another COLMAP model

    Raises ColmapError for an unusable model, ArtifactError if files of another program would be replaced, ImageError
    without images, PartialFailureError, which has the result, if images are missing or do not have the size of their
    camera and the rest is done.
    """
    from disk.colmap.georegistration import FILE as PLACE
    from disk.colmap.models import write_ply
    from disk.colmap.undistortion import undistort as undistort_images
    from disk.colmap.undistortion import undistorted_name
    from disk.colmap.workspace import open_workspace, usable_images

    check_at_least(options, max_size=0)
    model, out = Path(model), Path(out)
    source = open_workspace(model, options.images or _image_folder(model))
    _check_output(source, out, options.overwrite)
    usable, failed = usable_images(source)
    if not usable:
        raise ImageError(
            f"{source.image_folder}: none of the model's images can be used: {next(iter(failed.values()))}"
        )
    masks = _masks(source, usable, options.mask_dir)
    fingerprint = _fingerprint(source, usable, masks, options)
    names = [image.name for image in usable]
    with folder_lock(out):
        note = {"made of": fingerprint}
        if made_from(out) != note:
            _clear(out)
            note_made_from(out, note)
        written = undistort_images(source, names, out, options.max_size, masks)
        if (source.model / PLACE).is_file():  # the poses are the same
            with new_file(out / "sparse" / "0" / PLACE) as temporary:
                shutil.copyfile(source.model / PLACE, temporary)
        if options.transforms:
            write_ply(out / "sparse" / "0", out / _POINTS)
            with_mask = {undistorted_name(name) for name in masks}
            frames = [_frame(image, image.name in with_mask) for image in written.images]
            write_transforms(out / "transforms.json", frames, _POINTS)
    largest = max(written.images, key=lambda image: image.width * image.height)
    result = Undistorted(
        str(out.absolute()), len(names), len(masks), largest.width, largest.height, source.distorted, failed
    )
    log.info("%s in %s", counted(result.images, "undistorted image"), out)
    for reason in failed.values():
        log.warning("not undistorted: %s", reason)
    if failed:
        left = f"{len(failed)} of {len(source.images)} images could not be undistorted: {named(list(failed))}"
        raise PartialFailureError(f"{left}; the rest is done", result)
    return result


def _image_folder(model: Path) -> Path | None:
    """The photo folder recorded by `disk reconstruct`; None if unknown. Raises ImageError if it no longer exists."""
    if (model / "images").is_dir() or not (model / SUMMARY).is_file():
        return None
    photos = read_summary(model).photos
    if not photos:
        return None
    if not Path(photos).is_dir():
        raise ImageError(
            f"{photos}, from which {model} was made, does not exist; name the folder with {option('images')}"
        )
    return Path(photos)


def _check_output(source: Workspace, out: Path, overwrite: bool) -> None:
    place = out.resolve()
    if place == source.image_folder.resolve() or source.image_folder.resolve() in place.parents:
        raise ArtifactError(
            f"{out} is in {source.image_folder}: undistorted images would be taken for photos; use another output"
        )
    if source.model.resolve() in (place, *(place / "sparse" / sub for sub in (".", "0"))):
        raise ArtifactError(f"{out} is the model itself; use another output")
    there = [name for name in _WRITTEN if (out / name).exists()]
    if there and not (out / MADE_FROM).exists() and not overwrite:
        raise ArtifactError(
            f"{out / there[0]} was not made by `disk undistort`; use another output, or {option('overwrite', True)}"
        )


def _masks(source: Workspace, usable: list[WorkspaceImage], folder: Path | None) -> dict[str, Path]:
    if folder is None:
        return {}
    files = [ImageFile(image_name(image.name), source.image_folder / image.name, image.name) for image in usable]
    found = find_masks(folder, files)
    return {file.relative: found[file.name] for file in files if file.name in found}


def _fingerprint(
    source: Workspace, usable: list[WorkspaceImage], masks: dict[str, Path], options: UndistortOptions
) -> str:
    """The fingerprint of everything that determines the output: the model, image and mask files, the size."""
    digest = hashlib.sha256(json.dumps([str(options.max_size), str(source.image_folder.resolve())]).encode())
    for path in sorted(source.model.glob("*.*")):
        if path.suffix in (".bin", ".txt", ".json"):
            digest.update(path.name.encode() + path.read_bytes())
    for image in usable:
        for path in [source.image_folder / image.name, *([masks[image.name]] if image.name in masks else [])]:
            status = path.stat()
            digest.update(f"{path} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _clear(out: Path) -> None:
    (out / MADE_FROM).unlink(missing_ok=True)
    for name in _WRITTEN:
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _frame(image: WorkspaceImage, has_mask: bool) -> Frame:
    K = image.K
    # +0.5: principal point in COLMAP's convention
    params = float(K[0, 0]), float(K[1, 1]), float(K[0, 2] + 0.5), float(K[1, 2] + 0.5)
    mask = f"masks/{image.name}.png" if has_mask else None
    return Frame(f"images/{image.name}", "PINHOLE", image.width, image.height, params, image.R, image.t, mask)
