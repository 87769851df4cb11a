"""Sparse reconstruction benchmark: our features against COLMAP's SIFT on the same images."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from disk.errors import ColmapError, EvaluationError
from disk.evaluation.report import Report, Result, Value, check_outputs, write_report
from disk.images.listing import list_images
from disk.options import AnyPath, Options
from disk.pipeline.export import ExportOptions
from disk.pipeline.precheck import check_readable
from disk.pipeline.reconstruct import ReconstructOptions, reconstruct
from disk.pipeline.verify import VerifyOptions
from disk.progress import log
from disk.storage.artifacts import read_features


@dataclass(frozen=True, kw_only=True)
class ReconstructionOptions(Options):
    """Options of the reconstruction benchmark."""

    weights: tuple[str, ...] = ("default",)
    """Weights of disk, one or more: default, depth, epipolar, or .pth or .safetensors files."""
    n: int = 2048
    """Keypoint budget: maximum number of keypoints per image, for ours and for SIFT."""
    max_size: int = 1600
    """Downscale images with a longer side than this, in pixels; 0: never."""
    ratio: float | None = ReconstructOptions.rt
    """Ratio test of our matches; None: no test. SIFT uses COLMAP's ratio test."""
    camera_model: str = ExportOptions.camera_model
    """Any of COLMAP's camera models, such as simple-pinhole, pinhole, opencv."""
    single_camera: bool = False
    """All images in a folder share one camera."""
    seed: int = 0
    """Random seed of robust estimation and mapping."""
    out: Path | None = None
    """Keep the models in this folder, so that our part resumes where it stopped; default: models are deleted."""
    json: Path | None = None
    """Write all figures to this file."""


def evaluate_reconstruction(
    images: Sequence[AnyPath], options: ReconstructionOptions = ReconstructionOptions()
) -> Report:
    """Reconstruct each folder of images with all pairs matched; prints a table and writes requested files.

    A method that connects no images gets zeros.
    images: folders of images.

    Raises EvaluationError if there are no folders or two share a name, and the errors of `disk reconstruct`.
    """
    check_outputs(options.json, None)
    if not images:
        raise EvaluationError("no images; give one or more folders")
    scenes = {_name(Path(folder)): Path(folder) for folder in images}
    if len(scenes) < len(images):
        raise EvaluationError("two folders share a name; evaluate them separately")
    for folder in scenes.values():
        check_readable(list_images(folder))  # a wrong folder is an error before the first model is made
    methods = {"disk" if name == "default" else f"disk {name}": name for name in options.weights}
    figures: dict[str, dict[str, dict[str, Value]]] = {label: {} for label in [*methods, "COLMAP's SIFT"]}
    with tempfile.TemporaryDirectory(prefix="disk-evaluate-") as scratch:
        for scene, folder in scenes.items():
            for number, (label, weights) in enumerate(methods.items()):
                out = (options.out or Path(scratch)) / scene / f"disk-{number}"
                figures[label][scene] = _ours(folder, out, weights, options)
            out = (options.out or Path(scratch)) / scene / "sift"
            figures["COLMAP's SIFT"][scene] = _sift(folder, out, options)
    results = [Result(label, groups) for label, groups in figures.items()]
    title = f"reconstruction of {', '.join(scenes)} with {options.n} keypoints, all pairs matched"
    report = Report(title, results, formats=FORMATS)
    write_report(report, options, options.json, None)
    return report


def _name(folder: Path) -> str:
    # the images of a scene are often in a sub-folder called images
    folder = folder.resolve()
    return folder.parent.name if folder.name == "images" else folder.name


def _ours(folder: Path, out: Path, weights: str, options: ReconstructionOptions) -> dict[str, Value]:
    chosen = ReconstructOptions(
        n=options.n, max_size=options.max_size, model_path=weights, pairs="exhaustive", rt=options.ratio,
        camera_model=options.camera_model, single_camera=options.single_camera, seed=options.seed,
    )  # fmt: skip
    try:
        found = reconstruct(folder, out, chosen)
    except ColmapError as error:
        log.warning("%s: %s", folder, error)
        return _nothing(len(list_images(folder)))
    with read_features(out / "artifacts") as features:
        keypoints = float(np.mean([len(features.keypoints(name)) for name in features.names]))
    return _figures(found.images, keypoints, asdict(found), found.seconds)


def _sift(folder: Path, out: Path, options: ReconstructionOptions) -> dict[str, Value]:
    from disk.colmap.cameras import camera_model
    from disk.colmap.database import open_database
    from disk.colmap.mapping import map_images
    from disk.colmap.sift import find_sift, match_sift

    files = {image.relative: image.path for image in list_images(folder)}
    out.mkdir(parents=True, exist_ok=True)
    database = out / "database.db"
    database.unlink(missing_ok=True)
    model, single = camera_model(options.camera_model), options.single_camera
    times = [perf_counter()]
    find_sift(database, folder, list(files), options.n, options.max_size, model, single)
    times.append(perf_counter())
    match_sift(database, VerifyOptions.max_error, VerifyOptions.min_inliers, options.seed)
    times.append(perf_counter())
    try:
        models = map_images(database, files, out / "sparse", seed=options.seed)
    except ColmapError as error:
        log.warning("%s, COLMAP's SIFT: %s", folder, error)
        return _nothing(len(files))
    times.append(perf_counter())
    with open_database(database) as opened:
        keypoints = opened.num_keypoints() / len(files)
    seconds = dict(zip(("detect", "match and verify", "map"), np.diff(times).tolist(), strict=True))
    largest = asdict(models[0]) | {"registered": len(models[0].images)}
    return _figures(len(files), keypoints, largest, seconds)


def _figures(images: int, keypoints: float, model: dict[str, Any], seconds: dict[str, float]) -> dict[str, Value]:
    return {
        "images": images,
        "registered": model["registered"],
        "points": model["points"],
        "track length": model["track_length"],
        "reprojection error (px)": model["reprojection_error"],
        "keypoints per image": keypoints,
        "seconds": sum(seconds.values()),
        **{f"seconds, {stage}": value for stage, value in seconds.items()},
    }


def _nothing(images: int) -> dict[str, Value]:
    return {"images": images, "registered": 0, "points": 0}


FORMATS = {
    "images": "d",
    "registered": "d",
    "points": "d",
    "track length": ".2f",
    "reprojection error (px)": ".2f",
    "keypoints per image": ".0f",
}
