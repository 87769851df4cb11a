"""From a folder of photos to a sparse 3D model: detect, match, export, verify, map."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from disk.devices import choose_device
from disk.errors import ArtifactError, ColmapError, PartialFailureError, VideoError
from disk.images.listing import ImageFile, list_images
from disk.images.video import is_video
from disk.model.checkpoints import resolve
from disk.model.engine import resolve_precision
from disk.model.options import Budget
from disk.options import AnyPath, Options, option
from disk.pipeline.cameras import check_cameras, check_plan, plan_of, rig_of, who_shares_cameras
from disk.pipeline.detect import DetectOptions, check_detect, detect
from disk.pipeline.export import ExportOptions, export, files_of_features
from disk.pipeline.follow import Changes, follow_folder
from disk.pipeline.frames import FramesOptions, check_frames, frames
from disk.pipeline.gps import positions_for_pairs
from disk.pipeline.map import SUMMARY, MapOptions, Reconstruction, map_models, read_summary
from disk.pipeline.match import MatchOptions, check_match, match, options_not_for, used_by
from disk.pipeline.options import (
    CameraChoice,
    ChosenImages,
    FrameChoice,
    GpsChoice,
    MapperChoice,
    MaskFolder,
    MatcherChoice,
    Network,
    PairChoice,
    Place,
    RigChoice,
    Seed,
    TwoViews,
)
from disk.pipeline.precheck import (
    Sizes,
    check_matcher,
    check_output,
    check_pairs_file,
    check_room,
    check_shared,
    read_sizes,
)
from disk.pipeline.report import keep_page
from disk.pipeline.rotations import rotated_images, turn_unconnected
from disk.pipeline.take_up import UNDISTORTED, note_options, take_up
from disk.pipeline.timing import timed
from disk.pipeline.undistort import UndistortOptions, undistort
from disk.pipeline.unused import log_unused, unused_flags
from disk.pipeline.verify import VerifyOptions, check_verify, verify
from disk.progress import log
from disk.storage.artifacts import IN_MODEL, read_features, read_matches
from disk.storage.locks import folder_lock
from disk.storage.new_file import write_json

__all__ = ["ReconstructOptions", "Reconstruction", "read_summary", "reconstruct"]

_ROUNDS = 4  # of turning photos that do not connect; most need one, and one that finds no more
ALL_PAIRS_UP_TO = 200  # images; above, --pairs auto matches those that look alike
# may change from run to run: they do not change the model, or what they name is checked where it is used
_FREE = (
    "device",
    "ray",
    "keep_going",
    "overwrite",
    "pairs_file",
    "undistort",
    "gps",
    "fps",
    "frames",
    "rig_config",
    "remap",
)
_LATER = ("camera_params", "cameras", "fix_intrinsics", "max_distance", "loops", "rig")
FRAMES = "frames"  # in the output: those of a video
_LOOPS = 5  # similar frames further off that each frame of a video is matched with
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions(
    Seed,
    GpsChoice,
    MapperChoice,
    RigChoice,
    TwoViews,
    CameraChoice,
    MatcherChoice,
    PairChoice,
    Place,
    Network,
    MaskFolder,
    FrameChoice,
    ChosenImages,
    Budget,
    Options,
):  # fmt: skip
    """The options of the stages that matter for a model; `disk detect --help` and so on say more."""

    pairs: Literal["auto", "exhaustive", "sequential", "rig", "list", "retrieval", "spatial"] = "auto"
    """Which images are matched; auto: all pairs of up to 200 images, of more those that look alike; of a video those
    near in time, with --loops 5; of a rig those near in time along each camera and across cameras; spatial: those
    taken near each other by GPS."""
    rotations: Literal["auto", "off"] = "auto"
    """auto: images that connect to no others are tried turned by 90, 180 and 270 degrees; off: never."""
    undistort: bool = False
    """Write OUT/undistorted as well: undistorted images and a pinhole model, for splatting, as `disk undistort`."""
    keep_going: bool = False
    """Exit with 0 even when some images could not be read."""
    overwrite: bool = False
    """Start anew."""


def reconstruct(images: AnyPath, out: AnyPath, options: ReconstructOptions = ReconstructOptions()) -> Reconstruction:
    """Reconstruct photos or a video into out/sparse/0, out/points.ply, out/summary.json and out/report.html.

    Of a video sharp frames are written to out/frames first, as by `disk.frames`; they share one camera.
    Stages that are done are skipped, and all of them follow the folder: photos that are gone are left out, new ones
    are added. Raises the errors of the stages, ArtifactError when `out` was made with other options or of other photos,
    ColmapError when no images can be connected, PartialFailureError when the rest was done but some could not be read.
    """
    images, out = Path(images), Path(out)
    _check(images, options)
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
        raise ColmapError(f"{images} holds one image that can be read; a model needs at least two")
    check_output([] if of_video else files, out, options.overwrite)
    _check_rig(files, out, options)
    if options.undistort and images.resolve() in (out / UNDISTORTED).resolve().parents:
        raise ArtifactError(f"{out} lies in {images}: undistorted images would be taken for photos; use another output")
    check_shared(files, sizes, who_shares_cameras(options))
    if options.cameras is not None or options.camera_params is not None or options.rig:
        check_plan(plan_of([file for file in files if file.name in sizes], options), options)
    if options.pairs_file is not None:
        check_pairs_file(options.pairs_file, list(sizes))
    if options.pairs == "spatial":
        positions_for_pairs(files)
    unused = _unused(len(files), of_video, options)
    log_unused(unused)
    artifacts, database = out / IN_MODEL, out / "database.db"
    with folder_lock(out):
        changes = _follow(images, out, files, sizes, options)
        with timed(seconds, "detect"):
            try:
                detect(artifacts, images, _options_of(DetectOptions, options, overwrite=False))
            except PartialFailureError as error:
                partial = error
        with read_features(artifacts) as features:
            names = set(features.names)
        undecoded = [file.relative for file in files if file.name not in names and file.relative not in failed]
        failed |= dict.fromkeys(undecoded, "could not be decoded")
        if len(names) < 2:
            raise ColmapError(f"{len(names)} image in {images} has features; a model needs at least two images")
        if options.pairs == "auto" and _pairs(len(names), options) == "retrieval":
            log.info(
                "%d images: each is matched with the %d that look most alike; %s matches all pairs",
                len(names), options.top_k, option("pairs", "exhaustive"),
            )  # fmt: skip
        _connect(artifacts, images, database, names, options, seconds)
        # until there is nothing to turn, so that a run that was killed in between ends at the same
        for _ in range(_ROUNDS if options.rotations == "auto" else 0):
            with timed(seconds, "rotations"):
                turned = turn_unconnected(
                    artifacts,
                    images,
                    _options_of(DetectOptions, options, overwrite=False),
                    max_error=options.max_error,
                    min_inliers=options.min_inliers,
                    seed=options.seed,
                )
            if not turned:
                break
            _connect(artifacts, images, database, names, options, seconds)
        with timed(seconds, "map"):
            mapping = _options_of(MapOptions, options, database_path=database, output=out, overwrite=False)
            result = map_models(artifacts, images, mapping, options.pairs_file)
        if options.undistort:
            with timed(seconds, "undistort"):
                undistort(out, out / UNDISTORTED, UndistortOptions(images=images, mask_dir=options.mask_dir))
        result = _complete(out, result, seconds, failed, changes, unused, rotated_images(artifacts, files))
        keep_page(out, images)
    if partial:
        raise partial
    return result


def _frames_of(
    video: Path, out: Path, options: ReconstructOptions
) -> tuple[Path, ReconstructOptions, PartialFailureError | None]:
    """The folder of a video's frames, the options they are reconstructed with, and what is missing."""
    if options.rig:
        raise VideoError(f"{video} is one video, and {option('rig', True)} is for folders of several cameras")
    check_output([], out, options.overwrite)
    partial = None
    try:
        frames(video, out / FRAMES, _options_of(FramesOptions, options, overwrite=options.overwrite))
    except PartialFailureError as error:
        partial = None if options.keep_going else error
    if options.pairs == "auto":
        options = replace(options, pairs="sequential", loops=options.loops or _LOOPS)
        log.info(
            "each frame is matched with the %d after it and the %d most similar ones further off",
            options.overlap, options.loops,
        )  # fmt: skip
    if options.cameras is None and not options.single_camera:
        options = replace(options, camera_per="collection")
    return out / FRAMES, options, partial


def _check_rig(files: list[ImageFile], out: Path, options: ReconstructOptions) -> None:
    rig_of(files, options)
    if options.overwrite and options.rig_config is not None and out.resolve() in options.rig_config.resolve().parents:
        raise ArtifactError(
            f"{options.rig_config} lies in {out}, which {option('overwrite', True)} clears; copy it elsewhere"
        )


def _connect(
    artifacts: Path,
    images: Path,
    database: Path,
    names: set[str],
    options: ReconstructOptions,
    seconds: dict[str, float],
) -> None:
    """Match, export and verify whatever is not yet."""
    with timed(seconds, "match"):
        pairs = _pairs(len(names), options)
        match(artifacts, _match_options(images, pairs, options), forget_others=True)
    with timed(seconds, "export"):
        choice = _options_of(ExportOptions, options, database_path=database, overwrite=True)
        if not _is_exported(artifacts, images, database, choice):
            export(artifacts, images, choice)
    with timed(seconds, "verify"):
        verify(artifacts, _options_of(VerifyOptions, options, database_path=database, overwrite=False))


def _complete(
    out: Path,
    result: Reconstruction,
    seconds: dict[str, float],
    failed: dict[str, str],
    changes: Changes,
    unused: list[str],
    rotated: dict[str, int],
) -> Reconstruction:
    """Add to the summary what only the whole run knows; the file stays as it is where nothing is new."""
    stale = sorted({*changes.gone, *changes.changed})
    whole = replace(result, failed=failed, unused=unused, stale=stale, rotated=rotated)
    if list(result.seconds) == ["map"]:  # mapped now
        whole = replace(whole, seconds={stage: round(value, 3) for stage, value in seconds.items()})
    if whole != result:
        write_json(out / SUMMARY, asdict(whole))
    return whole


def _options_of(kind: type[T], options: ReconstructOptions, **others: Any) -> T:
    """The options of one stage: those it shares with ours by name, and others."""
    names = {field.name for field in fields(kind)} & {field.name for field in fields(options)}  # type: ignore[arg-type]
    return kind(**{name: getattr(options, name) for name in names} | others)


def _match_options(images: Path, pairs: str, options: ReconstructOptions) -> MatchOptions:
    folder = images if pairs == "spatial" else None
    return _options_of(MatchOptions, options, pairs=pairs, images=folder, rt=_ratio(options), overwrite=False)


def _check(images: Path, options: ReconstructOptions) -> None:
    """Raise what a stage would have to say of its options, before one has run and the options are noted."""
    from disk.colmap.cameras import camera_model

    camera_model(options.camera_model)
    resolve(options.model_path)
    check_detect(_options_of(DetectOptions, options))
    check_match(_match_options(images, _pairs(0, options), options))
    check_cameras(options)
    check_frames(options)
    check_verify(_options_of(VerifyOptions, options))
    check_matcher(options.matcher)
    if options.ray == "off":
        choose_device(options.device)


def _follow(images: Path, out: Path, files: list[ImageFile], sizes: Sizes, options: ReconstructOptions) -> Changes:
    """Make what is in `out` follow the options and the folder; what does not fit changes nothing."""
    artifacts, now = out / IN_MODEL, _decisive(options)
    take_up(out, now, options.overwrite, options.remap)
    with folder_lock(artifacts):
        changes = follow_folder(artifacts, files, images)
        new = {name: size for name, size in sizes.items() if name in changes.new or name in changes.changed}
        check_room(out, new, _options_of(DetectOptions, options).budget, options.max_size)
    note_options(out, now)
    return changes


def _decisive(options: ReconstructOptions) -> dict[str, str]:
    """The options that a run must share with the one it continues; the content of files is checked by the stages."""
    noted = {key: value for key, value in asdict(options).items() if key not in _FREE}
    for name in _LATER:  # outputs of earlier versions do not name them
        if noted[name] == getattr(ReconstructOptions, name):
            del noted[name]
    # what auto and other spellings stand for here, so that naming it otherwise later is no change
    noted["camera_model"] = options.camera_model.lower().replace("_", "-")
    noted["n"] = _options_of(DetectOptions, options).budget
    if options.ray == "off":
        noted["precision"] = resolve_precision(options.precision, choose_device(options.device))
    if options.mask_dir is not None:
        noted["mask_dir"] = options.mask_dir.resolve()
    return {key: str(value) for key, value in noted.items()}


def _ratio(options: ReconstructOptions) -> float | None:
    # the default is for nearest neighbours; `match` refuses any other with lightglue
    return None if options.matcher == "lightglue" and options.rt == ReconstructOptions.rt else options.rt


def _pairs(
    count: int, options: ReconstructOptions
) -> Literal["exhaustive", "sequential", "rig", "list", "retrieval", "spatial"]:
    if options.pairs != "auto":
        return options.pairs
    if options.rig:
        return "rig"
    return "exhaustive" if count <= ALL_PAIRS_UP_TO else "retrieval"


def _is_exported(artifacts: Path, images: Path, database: Path, options: ExportOptions) -> bool:
    from disk.colmap.database import difference, fingerprint, fingerprint_of_plan, open_database

    if not database.exists():
        return False
    with read_features(artifacts) as features, read_matches(artifacts) as matches:
        files = files_of_features(features, images, options.image_extension)
        plan = plan_of(files, options)
        with open_database(database) as opened:
            return difference(opened, features, matches) is None and fingerprint(opened) == fingerprint_of_plan(plan)


def _unused(count: int, of_video: bool, options: ReconstructOptions) -> list[str]:
    """Flags that were given but have no effect beside the others."""
    only_for_video = {} if of_video else dict.fromkeys(("fps", "frames"), "a video")
    only_for = {name: used_by(name) for name in options_not_for(_pairs(count, options))}
    return unused_flags(options, only_for | only_for_video)
