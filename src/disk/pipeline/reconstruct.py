"""Reconstructing a folder of photos or a video as a sparse 3D model: detect, match, export, verify, map."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from disk.errors import ArtifactError, ColmapError, PartialFailureError, VideoError
from disk.images.listing import ImageFile, list_images, named
from disk.images.video import is_video
from disk.options import AnyPath, option
from disk.pipeline.cameras import check_plan, plan_of, who_shares_cameras
from disk.pipeline.detect import DetectOptions, detect
from disk.pipeline.export import ExportOptions, export, files_of_features
from disk.pipeline.follow import Changes, follow_folder, why_without_features
from disk.pipeline.frames import FramesOptions, frames
from disk.pipeline.gps import positions_for_pairs
from disk.pipeline.map import MapOptions, map_models
from disk.pipeline.match import match
from disk.pipeline.options import options_of
from disk.pipeline.precheck import (
    Sizes,
    check_output,
    check_pairs_file,
    check_room,
    check_shared,
    read_sizes,
)
from disk.pipeline.reconstruct_options import (
    ReconstructOptions,
    check_options,
    check_rig,
    decisive,
    matching_options,
    pairs_of,
    unused_options,
)
from disk.pipeline.report import keep_page
from disk.pipeline.rotations import rotated_images, turn_unconnected
from disk.pipeline.summary import SUMMARY, Reconstruction, read_summary
from disk.pipeline.take_up import UNDISTORTED, note_options, take_up
from disk.pipeline.timing import timed
from disk.pipeline.undistort import UndistortOptions, undistort
from disk.pipeline.unused import log_unused
from disk.pipeline.verify import VerifyOptions, verify
from disk.progress import log
from disk.storage.artifacts import IN_MODEL, read_features, read_matches
from disk.storage.locks import folder_lock
from disk.storage.new_file import write_json

__all__ = ["ReconstructOptions", "Reconstruction", "read_summary", "reconstruct"]

_ROUNDS = 4  # of retrying unconnected photos at other turns; usually one, and one that finds no more
FRAMES = "frames"  # sub-folder of the output for the frames of a video
_LOOPS = 5  # similar, more distant frames to match with each frame of a video


def reconstruct(images: AnyPath, out: AnyPath, options: ReconstructOptions = ReconstructOptions()) -> Reconstruction:
    """Reconstruct photos or a video into out/sparse/0, out/points.ply, out/summary.json and out/report.html.

    For a video, first writes sharp frames to out/frames, as `disk.frames` does; they share one camera.
    Skips finished stages. Follows changes of the folder: drops photos that are gone, adds new ones.
    images: folder of photos, or a video
    out: folder for the results

    Raises ArtifactError if `out` was made with other options or from other photos, ColmapError if no images can be
    connected, PartialFailureError, which has the result, if some images could not be read, and the errors of the
    stages.
    """
    images, out = Path(images), Path(out)
    check_options(images, options)
    partial: PartialFailureError | None = None
    seconds: dict[str, float] = {}
    of_video = is_video(images)
    if of_video:
        with timed(seconds, "frames"):
            images, options, partial = _frames_of(images, out, options)
    elif options.rig and not options.single_camera and options.cameras is None:
        options = replace(options, camera_per="folder")
    files = list_images(images, options.image_extension)
    sizes, failed = read_sizes(files)
    if len(sizes) < 2:
        raise ColmapError(f"only one image in {images} can be read; a model needs at least two")
    check_output([] if of_video else files, out, options.overwrite)
    check_rig(files, out, options)
    if options.undistort and images.resolve() in (out / UNDISTORTED).resolve().parents:
        raise ArtifactError(f"{out} is in {images}: undistorted images would be taken for photos; use another output")
    check_shared(files, sizes, who_shares_cameras(options))
    if options.cameras is not None or options.camera_params is not None or options.rig:
        check_plan(plan_of([file for file in files if file.name in sizes], options), options)
    if options.pairs_file is not None:
        check_pairs_file(options.pairs_file, list(sizes))
    if options.pairs == "spatial":
        positions_for_pairs(files)
    unused = unused_options(len(files), of_video, options)
    log_unused(unused)
    artifacts, database = out / IN_MODEL, out / "database.db"
    with folder_lock(out):
        changes = _follow(images, out, files, sizes, options)
        with timed(seconds, "detect"):
            try:
                readable = {file.name for file in files} - set(changes.unreadable)
                detect(artifacts, images, options_of(DetectOptions, options, overwrite=False), readable)
            except PartialFailureError as error:
                partial = error
        with read_features(artifacts) as features:
            names = set(features.names)
        failed |= why_without_features(artifacts, files, changes)
        if changes.unreadable and not options.keep_going and partial is None:
            partial = PartialFailureError(
                f"{len(failed)} of {len(files)} images could not be read: {named(list(failed))}; the rest is done"
            )
        if len(names) < 2:
            raise ColmapError(f"features in only {len(names)} of the images in {images}; a model needs at least two")
        if options.pairs == "auto" and pairs_of(len(names), options) == "retrieval":
            log.info(
                "%d images: matching each with the %d most similar ones; %s matches all pairs",
                len(names), options.top_k, option("pairs", "exhaustive"),
            )  # fmt: skip
        _connect(artifacts, images, database, names, options, seconds)
        # until there is nothing to turn, so that a run that was killed in between ends at the same
        for _ in range(_ROUNDS if options.rotations == "auto" else 0):
            with timed(seconds, "rotations"):
                turned = turn_unconnected(
                    artifacts,
                    images,
                    options_of(DetectOptions, options, overwrite=False),
                    max_error=options.max_error,
                    min_inliers=options.min_inliers,
                    seed=options.seed,
                )
            if not turned:
                break
            _connect(artifacts, images, database, names, options, seconds)
        with timed(seconds, "map"):
            mapping = options_of(MapOptions, options, database_path=database, output=out, overwrite=False)
            result = map_models(artifacts, images, mapping, options.pairs_file)
        if options.undistort:
            with timed(seconds, "undistort"):
                try:
                    undistort(out, out / UNDISTORTED, UndistortOptions(images=images, mask_dir=options.mask_dir))
                except PartialFailureError as error:
                    partial = partial or (None if options.keep_going else error)
        result = _complete(out, result, seconds, failed, changes, unused, rotated_images(artifacts, files))
        keep_page(out, images)
    if partial:
        partial.result = result
        raise partial
    return result


def _frames_of(
    video: Path, out: Path, options: ReconstructOptions
) -> tuple[Path, ReconstructOptions, PartialFailureError | None]:
    """Write the frames of a video; return their folder, the options to reconstruct them with, and any failure."""
    if options.rig:
        raise VideoError(f"{video} is a single video; {option('rig', True)} needs one folder of images per camera")
    check_output([], out, options.overwrite)
    partial = None
    try:
        frames(video, out / FRAMES, options_of(FramesOptions, options, overwrite=options.overwrite))
    except PartialFailureError as error:
        partial = None if options.keep_going else error
    if options.pairs == "auto":
        options = replace(options, pairs="sequential", loops=options.loops or _LOOPS)
        log.info(
            "matching each frame with the following %d and the %d most similar, more distant ones",
            options.overlap, options.loops,
        )  # fmt: skip
    if options.cameras is None and not options.single_camera:
        options = replace(options, camera_per="collection")
    return out / FRAMES, options, partial


def _connect(
    artifacts: Path,
    images: Path,
    database: Path,
    names: set[str],
    options: ReconstructOptions,
    seconds: dict[str, float],
) -> None:
    """Match, export and verify whatever is not done yet."""
    with timed(seconds, "match"):
        pairs = pairs_of(len(names), options)
        match(artifacts, matching_options(images, pairs, options), forget_others=True)
    with timed(seconds, "export"):
        choice = options_of(ExportOptions, options, database_path=database, overwrite=True)
        if not _is_exported(artifacts, images, database, choice):
            export(artifacts, images, choice)
    with timed(seconds, "verify"):
        verify(artifacts, options_of(VerifyOptions, options, database_path=database, overwrite=False))


def _complete(
    out: Path,
    result: Reconstruction,
    seconds: dict[str, float],
    failed: dict[str, str],
    changes: Changes,
    unused: list[str],
    rotated: dict[str, int],
) -> Reconstruction:
    """Add the facts of the whole run to the summary; the file is rewritten only if something changed."""
    stale = sorted({*changes.gone, *changes.changed})
    removed = {name: failed.get(name, reason) for name, reason in result.removed.items()}
    whole = replace(result, failed=failed, unused=unused, stale=stale, rotated=rotated, removed=removed)
    if list(result.seconds) == ["map"]:  # mapped now
        whole = replace(whole, seconds={stage: round(value, 3) for stage, value in seconds.items()})
    if whole != result:
        write_json(out / SUMMARY, asdict(whole))
    return whole


def _follow(images: Path, out: Path, files: list[ImageFile], sizes: Sizes, options: ReconstructOptions) -> Changes:
    """Bring the contents of `out` in line with the options and the folder; an error leaves them unchanged."""
    artifacts, now = out / IN_MODEL, decisive(options)
    take_up(out, now, options.overwrite, options.remap)
    with folder_lock(artifacts):
        changes = follow_folder(artifacts, files, images)
        new = {name: size for name, size in sizes.items() if name in changes.new or name in changes.changed}
        check_room(out, new, options_of(DetectOptions, options).budget, options.max_size)
    note_options(out, now)
    return changes


def _is_exported(artifacts: Path, images: Path, database: Path, options: ExportOptions) -> bool:
    from disk.colmap.database import difference, fingerprint, fingerprint_of_plan, open_database

    if not database.exists():
        return False
    with read_features(artifacts) as features, read_matches(artifacts) as matches:
        files = files_of_features(features, images, options.image_extension)
        plan = plan_of(files, options)
        with open_database(database) as opened:
            return difference(opened, features, matches) is None and fingerprint(opened) == fingerprint_of_plan(plan)
