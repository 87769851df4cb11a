"""The options of a reconstruction: their checks, the options of each stage, and the part recorded in the output."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from disk.devices import choose_device
from disk.errors import ArtifactError
from disk.images.listing import ImageFile
from disk.model.checkpoints import resolve
from disk.model.engine import resolve_precision
from disk.model.options import Budget
from disk.options import Options, option
from disk.pipeline.cameras import check_cameras, rig_of
from disk.pipeline.detect import DetectOptions, check_detect
from disk.pipeline.frames import check_frames
from disk.pipeline.match_options import ALL_PAIRS_UP_TO, MatchOptions, check_match, only_for_other_pairs
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
    options_of,
)
from disk.pipeline.precheck import check_matcher
from disk.pipeline.unused import unused_flags
from disk.pipeline.verify import VerifyOptions, check_verify

# may differ between runs: they do not change the model, or the stage that uses them checks their content
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
    """The options of the stages that matter for a model; the stages themselves have more, see `disk detect --help`."""

    pairs: Literal["auto", "exhaustive", "sequential", "rig", "list", "retrieval", "spatial"] = "auto"
    """Pairs to match. exhaustive: all; sequential: neighbours by name; rig: neighbours of each camera and across
    cameras; list: --pairs-file; retrieval: similar images; spatial: near by GPS; auto: rig with --rig, sequential with
    --loops 5 for a video, else exhaustive up to 200 images, retrieval above."""
    rotations: Literal["auto", "off"] = "auto"
    """auto: retry unconnected images at quarter turns; off: never."""
    undistort: bool = False
    """Also run `disk undistort` into OUT/undistorted, for splatting."""
    keep_going: bool = False
    """Exit with 0 even when some images could not be read."""
    overwrite: bool = False
    """Delete the results in OUT and start over."""


def check_options(images: Path, options: ReconstructOptions) -> None:
    """Check the options of all stages before the first one runs; raises the errors of their checks."""
    from disk.colmap.cameras import camera_model

    camera_model(options.camera_model)
    resolve(options.model_path)
    check_detect(options_of(DetectOptions, options))
    check_match(matching_options(images, pairs_of(0, options), options))
    check_cameras(options)
    check_frames(options)
    check_verify(options_of(VerifyOptions, options))
    check_matcher(options.matcher)
    if options.ray == "off":
        choose_device(options.device)


def check_rig(files: list[ImageFile], out: Path, options: ReconstructOptions) -> None:
    """Check the folders and the configuration of a rig; raises the errors of `rig_of`.

    Raises ArtifactError if overwriting would delete the configuration.
    """
    rig_of(files, options)
    if options.overwrite and options.rig_config is not None and out.resolve() in options.rig_config.resolve().parents:
        raise ArtifactError(
            f"{options.rig_config} is in {out}, which {option('overwrite', True)} clears; copy it elsewhere"
        )


def matching_options(images: Path, pairs: str, options: ReconstructOptions) -> MatchOptions:
    """The options of matching for a resolved pairing strategy (not auto)."""
    folder = images if pairs == "spatial" else None
    return options_of(MatchOptions, options, pairs=pairs, images=folder, overwrite=False)


def decisive(options: ReconstructOptions) -> dict[str, str]:
    """The options that a run must share with the one it resumes; the stages check the content of files."""
    noted = {key: value for key, value in asdict(options).items() if key not in _FREE}
    for name in _LATER:  # not recorded by earlier versions
        if noted[name] == getattr(ReconstructOptions, name):
            del noted[name]
    # resolve auto and spellings, so that a different way to give the same value counts as no change
    noted["camera_model"] = options.camera_model.lower().replace("_", "-")
    noted["n"] = options_of(DetectOptions, options).budget
    if options.ray == "off":
        noted["precision"] = resolve_precision(options.precision, choose_device(options.device))
    if options.mask_dir is not None:
        noted["mask_dir"] = options.mask_dir.resolve()
    return {key: str(value) for key, value in noted.items()}


def pairs_of(
    count: int, options: ReconstructOptions
) -> Literal["exhaustive", "sequential", "rig", "list", "retrieval", "spatial"]:
    """The pairing strategy, with auto resolved for this number of images."""
    if options.pairs != "auto":
        return options.pairs
    if options.rig:
        return "rig"
    return "exhaustive" if count <= ALL_PAIRS_UP_TO else "retrieval"


def unused_options(count: int, of_video: bool, options: ReconstructOptions) -> list[str]:
    """Options that were given but have no effect, with the reason."""
    only_for_video = {} if of_video else dict.fromkeys(("fps", "frames"), "a video")
    return unused_flags(options, only_for_other_pairs(pairs_of(count, options)) | only_for_video)
