"""Triangulating points for known poses: detect, match, verify, triangulate, check that poses and images agree."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from disk.errors import ColmapError, PartialFailureError
from disk.images.listing import list_images
from disk.model.checkpoints import resolve
from disk.model.options import Budget
from disk.options import AnyPath, Options, option
from disk.pipeline.connections import read_connections
from disk.pipeline.detect import DetectOptions, check_detect, detect
from disk.pipeline.follow import Changes, follow_folder, why_without_features
from disk.pipeline.known_poses import PosedFiles, missing_message, read_posed_files
from disk.pipeline.map import database_fingerprint
from disk.pipeline.match import match
from disk.pipeline.match_options import ALL_PAIRS_UP_TO, MatchOptions, check_match
from disk.pipeline.options import (
    ChosenImages,
    MaskFolder,
    MatcherChoice,
    Network,
    Place,
    Seed,
    TwoViews,
    options_of,
)
from disk.pipeline.precheck import check_matcher, check_output, check_room
from disk.pipeline.summary import AGREEMENT, SUMMARY, Reconstruction, is_complete, read_summary, summarize
from disk.pipeline.take_up import note_options, take_up
from disk.pipeline.verify import VerifyOptions, check_verify, verify
from disk.progress import counted, log
from disk.storage.artifacts import IN_MODEL, INLIERS, read_features, read_matches
from disk.storage.locks import folder_lock
from disk.storage.made_from import made_from
from disk.storage.new_file import write_json

if TYPE_CHECKING:
    from disk.colmap.triangulation import KnownPose

_AGREES, _DOUBTFUL = 0.8, 0.5  # share of verified matches on their epipolar lines
_FREE = ("device", "ray", "keep_going", "overwrite")


@dataclass(frozen=True, kw_only=True)
class TriangulateOptions(Seed, TwoViews, MatcherChoice, Place, Network, MaskFolder, ChosenImages, Budget, Options):
    """How to detect and match features."""

    top_k: int = 20
    """Above 200 images: number of most similar images to match each image with; up to 200, all pairs are matched."""
    keep_going: bool = False
    """Exit with 0 even when images of the model are missing or could not be read."""
    overwrite: bool = False
    """Delete the results in OUT and start over."""


@dataclass(frozen=True)
class Triangulation:
    """The result; agreement.json has all of it but the model, which is in summary.json.

    model: as from `disk reconstruct`
    agreement: share of verified matches within --max-error of the epipolar lines of the given poses; near 1 if poses
        and images agree
    epipolar_error: median distance to these lines, in pixels
    by_image: the agreement of each image that has verified matches
    doubtful: images with an agreement below one half
    verdict: the agreement in words
    failed: images of the model that were not used, and why
    """

    model: Reconstruction
    agreement: float
    epipolar_error: float
    by_image: dict[str, float]
    doubtful: list[str]
    verdict: str
    failed: dict[str, str]


def triangulate(
    model: AnyPath, images: AnyPath, out: AnyPath, options: TriangulateOptions = TriangulateOptions()
) -> Triangulation:
    """Triangulate points for known, fixed poses; write out/sparse/0 and points.ply, as `reconstruct` does.

    Skips finished stages.
    model: a COLMAP model, or a transforms.json of nerfstudio or instant-ngp

    Raises ColmapError for an unusable model, images that do not have the size of their camera, or if no point fits;
    PartialFailureError, which has the result, if some images could not be used; and the errors of the stages.
    """
    model, images, out = Path(model), Path(images), Path(out)
    _check(options)
    files = list_images(images, options.image_extension)
    posed = read_posed_files(model, images, files)
    check_output(files, out, options.overwrite)
    artifacts, database = out / IN_MODEL, out / "database.db"
    start = perf_counter()
    with folder_lock(out):
        decisive = {key: str(value) for key, value in asdict(options).items() if key not in _FREE}
        take_up(out, decisive | {"poses": "known"}, options.overwrite)
        with folder_lock(artifacts):
            changes = follow_folder(artifacts, posed.files, images)
            cameras = {file.name: posed.poses[file.relative].camera for file in posed.files}
            sizes = {name: (camera.width, camera.height) for name, camera in cameras.items()}
            check_room(out, sizes, options_of(DetectOptions, options).budget, options.max_size)
        note_options(out, decisive | {"poses": "known"})
        failed = dict.fromkeys(posed.without_image, f"not in {images}")
        failed |= _features(artifacts, images, posed, options, changes)
        pairs = "exhaustive" if len(posed.files) <= ALL_PAIRS_UP_TO else "retrieval"
        match(artifacts, options_of(MatchOptions, options, pairs=pairs, overwrite=False))
        _export(artifacts, database, posed)
        verify(artifacts, options_of(VerifyOptions, options, database_path=database, overwrite=False))
        result = _map(artifacts, images, out, posed, options, failed, start)
    if failed and not options.keep_going:
        unread = set(failed) - set(posed.without_image)
        message = f"{counted(len(unread), 'image')} could not be read: {', '.join(sorted(unread))}; the rest is done"
        raise PartialFailureError(message if unread else missing_message(posed, model), result)
    return result


def read_triangulation(out: Path) -> Triangulation:
    """Read the result of `triangulate`. Raises ColmapError if it has not finished or the files are not ours."""
    path = out / AGREEMENT
    try:
        return Triangulation(model=read_summary(out), **json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ColmapError(f"no {path}; run `disk triangulate` first") from None
    except (ValueError, TypeError):
        raise ColmapError(f"{path} was not written by `disk triangulate`") from None


def _check(options: TriangulateOptions) -> None:
    resolve(options.model_path)
    check_detect(options_of(DetectOptions, options))
    check_match(options_of(MatchOptions, options))
    check_verify(options_of(VerifyOptions, options))
    check_matcher(options.matcher)


def _features(
    artifacts: Path, images: Path, posed: PosedFiles, options: TriangulateOptions, changes: Changes
) -> dict[str, str]:
    """Detect features; return why images have none, by path."""
    names = {file.name for file in posed.files} - set(changes.unreadable)
    detection = options_of(DetectOptions, options, overwrite=False, keep_going=True)
    detect(artifacts, images, detection, only=names)
    with read_features(artifacts) as features:
        known = set(features.names)
    if len(known) < 2:
        raise ColmapError(f"features in only {len(known)} of the images in {images}; a model needs at least two")
    return why_without_features(artifacts, posed.files, changes)


def _export(artifacts: Path, database: Path, posed: PosedFiles) -> None:
    """Write the database with the known cameras, unless it is current."""
    from disk.colmap.database import difference, fingerprint, fingerprint_of_plan, open_database, write_database
    from disk.colmap.plan import plan_known

    with read_features(artifacts) as features, read_matches(artifacts) as matches:
        detected = set(features.names)
        files = [file for file in posed.files if file.name in detected]
        plan = plan_known(files, {name: pose.camera for name, pose in posed.poses.items()})
        if database.exists():
            with open_database(database) as opened:
                if not difference(opened, features, matches) and fingerprint(opened) == fingerprint_of_plan(plan):
                    return
        write_database(database, plan, features, matches)


def _map(
    artifacts: Path,
    images: Path,
    out: Path,
    posed: PosedFiles,
    options: TriangulateOptions,
    failed: dict[str, str],
    start: float,
) -> Triangulation:
    from disk.colmap.mapping import NoModelError
    from disk.colmap.models import write_ply
    from disk.colmap.triangulation import triangulate as triangulate_points

    database, sparse = out / "database.db", out / "sparse"
    names = {file.name for file in posed.files if file.relative not in failed}
    poses = {file.relative: posed.poses[file.relative] for file in posed.files if file.name in names}
    made_of = {"made of": database_fingerprint(artifacts, database), "poses": _digest(poses), "seed": options.seed}
    if made_from(sparse) == made_of and is_complete(out) and (out / AGREEMENT).is_file():
        log.info("%s is complete", sparse)
        return read_triangulation(out)
    for file in (AGREEMENT, SUMMARY):
        (out / file).unlink(missing_ok=True)
    agreement, error, by_image = _agreement(artifacts, posed, options.max_error)
    doubtful = sorted(name for name, share in by_image.items() if share < _DOUBTFUL)
    verdict = _verdict(agreement, error, doubtful, len(by_image))
    log.info("%s", verdict)
    paths = {file.relative: file.path for file in posed.files}
    try:
        found = triangulate_points(database, poses, paths, sparse, options.seed, made_of)
    except NoModelError:
        shutil.rmtree(sparse, ignore_errors=True)
        raise ColmapError(f"no point could be triangulated: {verdict}") from None
    write_ply(sparse / "0", out / "points.ply")
    reasons = {name: "observes no point with its pose" for name, count in found.observations.items() if not count}
    connections = read_connections(artifacts, database)
    seconds = {"triangulate": perf_counter() - start}
    summary = replace(
        summarize([found], len(poses), images, connections, reasons, seconds), remarks=[verdict], failed=failed
    )
    write_json(out / SUMMARY, asdict(summary))
    result = Triangulation(summary, agreement, error, by_image, doubtful, verdict, failed)
    write_json(out / AGREEMENT, {key: value for key, value in asdict(result).items() if key != "model"})
    return result


def _agreement(artifacts: Path, posed: PosedFiles, max_error: float) -> tuple[float, float, dict[str, float]]:
    """The share of verified matches on their epipolar lines, their median distance, and the share by image."""
    from disk.colmap.database import COLMAP_SHIFT
    from disk.colmap.triangulation import epipolar_errors

    paths = {file.name: file.relative for file in posed.files}
    by_image: dict[str, list[np.ndarray]] = {}
    everything = []
    with read_features(artifacts) as features, read_matches(artifacts, INLIERS) as inliers:
        for pair in inliers.pairs():
            indices = inliers[pair]
            if not indices.shape[1]:
                continue
            points = [features.keypoints(name)[rows] + COLMAP_SHIFT for name, rows in zip(pair, indices, strict=True)]
            first, second = (posed.poses[paths[name]] for name in pair)
            errors = epipolar_errors(first, second, points[0], points[1])
            errors = errors[np.isfinite(errors)]
            everything.append(errors)
            for name in pair:
                by_image.setdefault(paths[name], []).append(errors)
    if not everything or not sum(map(len, everything)):
        raise ColmapError(
            "no two images have enough matches that pass geometric verification: they need more overlap, more features "
            f"({option('n')}), or {option('max_size', 0)}"
        )
    whole = np.concatenate(everything)
    shares = {name: np.concatenate(errors) for name, errors in sorted(by_image.items())}
    return (
        float((whole <= max_error).mean()),
        float(np.median(whole)),
        {name: round(float((errors <= max_error).mean()), 4) for name, errors in shares.items() if len(errors)},
    )


def _verdict(agreement: float, error: float, doubtful: list[str], images: int) -> str:
    share = f"{agreement:.0%} of the verified matches agree with the poses (median {error:.2f} px off)"
    if agreement < _DOUBTFUL:
        return (
            f"poses and images do not agree: only {share}; are these the images of the model, in its order, and its "
            "poses x_cam = R x_world + t with y down, or OpenGL's in transforms.json?"
        )
    if doubtful and 2 * len(doubtful) < images:
        return f"{share}, but few of those in {', '.join(doubtful[:5])}: their poses are doubtful"
    if agreement < _AGREES:
        return f"{share}: the poses or the camera parameters are imprecise"
    return share


def _digest(poses: dict[str, KnownPose]) -> str:
    digest = hashlib.sha256()
    for name, pose in sorted(poses.items()):
        digest.update(
            f"{name} {pose.camera}".encode() + np.round(pose.R, 12).tobytes() + np.round(pose.t, 12).tobytes()
        )
    return digest.hexdigest()[:16]
