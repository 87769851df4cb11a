"""Exporting features and matches to COLMAP, the IMW benchmark and hloc."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from disk.errors import ArtifactError, ColmapError, ImageError
from disk.images.gps import read_positions
from disk.images.listing import ImageFile, list_images, named
from disk.images.reading import image_size
from disk.options import AnyPath, Options, option
from disk.pipeline.cameras import check_cameras, plan_of, who_shares_cameras
from disk.pipeline.follow import changed_photos
from disk.pipeline.options import CameraChoice, ChosenImages, GpsChoice
from disk.pipeline.unused import log_unused, unused_flags
from disk.progress import counted, log
from disk.storage.artifacts import (
    FeatureStore,
    MatchStore,
    artifacts_folder,
    default_database,
    is_artifact,
    read_features,
    read_matches,
)
from disk.storage.layouts import HLOC_FILES, IMW_FILES, write_hloc, write_imw
from disk.storage.locks import file_lock

MANY_PARAMETERS = 5  # of a camera; with more, images should share cameras


@dataclass(frozen=True, kw_only=True)
class ExportOptions(CameraChoice, GpsChoice, ChosenImages, Options):
    """Format and destination of an export."""

    format: Literal["colmap", "imw", "hloc"] = "colmap"
    """colmap: a database; imw: the benchmark's HDF5 files, a folder per sequence; hloc: its HDF5 files."""
    database_path: Path | None = None
    """colmap: database to write; must not exist yet; default: database.db beside ARTIFACTS."""
    output: Path | None = None
    """imw, hloc: folder to write to; default: ARTIFACTS/imw or ARTIFACTS/hloc."""
    overwrite: bool = False
    """Replace an earlier export."""


def export(artifacts: AnyPath, images: AnyPath, options: ExportOptions = ExportOptions()) -> Path:
    """Write features and matches in another program's format; return the database or folder.

    Raises ArtifactError without features or matches or if files would be replaced, ImageError if an image is missing or
    has changed since detection, ColmapError if the database exists.
    """
    check_cameras(options)
    log_unused(unused_by_export(options))
    artifacts, images = artifacts_folder(artifacts), Path(images)
    with read_features(artifacts) as features, read_matches(artifacts) as matches:
        _check_matches(features, matches, artifacts)
        if options.format == "colmap":
            from disk.colmap.cameras import camera_model
            from disk.colmap.database import refuse_other_file, write_database
            from disk.colmap.priors import write_priors

            model = camera_model(options.camera_model)
            out = options.database_path or default_database(artifacts)
            if out.exists() and not options.overwrite:
                raise ColmapError(
                    f"{out} exists; choose another {option('database_path')}, or use {option('overwrite', True)}"
                )
            refuse_other_file(out)
            files = files_of_features(features, images, options.image_extension)
            if options.cameras is None and options.camera_params is None:
                _warn_of_many_parameters(model, who_shares_cameras(options))
            with file_lock(out):  # fails early if it cannot be written
                plan = plan_of(files, options)
            write_database(out, plan, features, matches)
            if options.gps == "auto":
                positions, faults = read_positions(files)
                if faults:
                    log.warning(faults)
                write_priors(out, positions)
        else:
            out = options.output or artifacts / options.format
            _refuse_existing(out, options)
            files = files_of_features(features, images, options.image_extension)
            if options.format == "imw":
                across = write_imw(features, matches, out)
                if across:
                    log.warning(
                        "skipped %s of images in different folders: the IMW layout has no place",
                        counted(across, "pair"),
                    )
            else:
                paths = {file.name: file.relative for file in files}
                sizes = {file.name: image_size(file.path) for file in files}
                write_hloc(features, matches, paths, sizes, out)
        without = sorted({file.name for file in list_images(images, options.image_extension)} - set(features.names))
        if without:
            log.warning("skipped images in %s that have no features: %s", images, named(without))
        log.info("%s and %s in %s", counted(len(files), "image"), counted(len(matches.pairs()), "pair"), out)
    return out


def unused_by_export(options: ExportOptions) -> list[str]:
    """Options that were given but are not for this format, with the reason."""
    of_colmap = ("database_path", "camera_model", "camera_per", "single_camera", "camera_params", "cameras", "gps")
    if options.format == "colmap":
        return unused_flags(options, {"output": option("format", "imw") + " or hloc"})
    return unused_flags(options, dict.fromkeys(of_colmap, option("format", "colmap")))


def _warn_of_many_parameters(model: str, per: str) -> None:
    from disk.colmap.cameras import parameters_of

    count = parameters_of(model)
    if per == "image" and count > MANY_PARAMETERS:
        name = model.lower().replace("_", "-")
        log.warning(
            "%s has %d parameters, and each image gets its own camera: too many to estimate reliably from one "
            "image; use %s or %s if the images were taken with one camera and zoom",
            option("camera_model", name), count, option("single_camera", True), option("camera_per", "folder"),
        )  # fmt: skip


def files_of_features(features: FeatureStore, images: Path, extension: str | None = None) -> list[ImageFile]:
    """The image files that the features were detected in, sorted by name.

    Raises ImageError if one is missing or has changed since.
    """
    by_name = {file.name: file for file in list_images(images, extension)}
    missing = [name for name in features.names if name not in by_name]
    if len(missing) == len(features.names):
        raise ImageError(
            f"{images} has none of the {len(missing)} images of {features.artifacts}; is it the wrong folder?"
        )
    if missing:
        raise ImageError(
            f"{images} has no image {missing[0]!r}, which has features ({len(missing)} missing); put it "
            f"back, or run `disk detect` again with {option('overwrite', True)} (`disk reconstruct` does so itself)"
        )
    files = [by_name[name] for name in features.names]
    for file in files:
        then, now = _recorded_size(features, file.name), image_size(file.path)
        if then not in (None, now):
            raise ImageError(
                f"{file.path} is {now[0]} x {now[1]}, but was {then[0]} x {then[1]} when its features were detected; "
                f"put the old one back, or run `disk detect` again with {option('overwrite', True)}"
            )
    changed = changed_photos(features.artifacts, files)
    if changed:
        raise ImageError(
            f"{counted(len(changed), 'photo')} in {images} changed after detection: {named(changed)}; run `disk "
            "detect` and `disk match` again"
        )
    return files


def _check_matches(features: FeatureStore, matches: MatchStore, artifacts: Path) -> None:
    """Raise ArtifactError for matches of other features: out-of-range indices would crash the readers."""
    counts = {name: len(features.keypoints(name)) for name in features.names}
    for pair in matches.pairs():
        for name, indices in zip(pair, matches[pair], strict=True):
            if name not in counts:
                raise ArtifactError(f"{artifacts} has matches of {name!r}, but no features; match again")
            if len(indices) and not 0 <= indices.min() <= indices.max() < counts[name]:
                raise ArtifactError(
                    f"the matches in {artifacts} are out of date: {name!r} has {counts[name]} keypoints, "
                    f"not {indices.max() + 1}; match again"
                )


def _recorded_size(features: FeatureStore, name: str) -> tuple[int, int] | None:
    try:
        return features.image_size(name)
    except ArtifactError:
        return None  # not recorded by the original DISK


def _refuse_existing(out: Path, options: ExportOptions) -> None:
    names = IMW_FILES if options.format == "imw" else HLOC_FILES
    # hloc's files are in the folder itself, the benchmark's in a folder per sequence
    find = out.glob if options.format == "hloc" else out.rglob
    there = sorted(path for name in names for path in find(name))
    if there and not options.overwrite:
        raise ArtifactError(f"{there[0]} exists; choose another {option('output')}, or use {option('overwrite', True)}")
    own = [path for path in there if path.suffix == ".h5" and is_artifact(path)]
    if own:
        raise ArtifactError(
            f"{own[0]} is an artifact of this program, which {option('format', options.format)} would replace; choose "
            f"another {option('output')}"
        )
