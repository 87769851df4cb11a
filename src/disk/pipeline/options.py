"""Options shared by several stages."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from disk.matching.matcher import MatcherName
from disk.matching.nearest import DEFAULT_RATIO
from disk.options import Precision
from disk.pipeline.cluster import RayCluster

T = TypeVar("T")


def options_of(kind: type[T], options: Any, **others: Any) -> T:
    """The options of one stage: the fields it shares with `options` by name, and `others`."""
    names = {field.name for field in fields(kind)} & {field.name for field in fields(options)}  # type: ignore[arg-type]
    return kind(**{name: getattr(options, name) for name in names} | others)


@dataclass(frozen=True, kw_only=True)
class ChosenImages:
    """Which files of a folder are used as images."""

    image_extension: str | None = None
    """Use only images with this extension, any case; default: all supported types."""


@dataclass(frozen=True, kw_only=True)
class FrameChoice:
    """Which frames of a video are used as photos."""

    fps: float = 2.0
    """Frames per second of video, the sharpest of each interval."""
    frames: int | None = None
    """Number of frames to keep from the whole video, instead of --fps."""


@dataclass(frozen=True, kw_only=True)
class MaskFolder:
    """Where features are masked out."""

    mask_dir: Path | None = None
    """Folder of masks: no features are kept where a mask is 0. The mask of image.jpg is image.jpg.png, as in COLMAP,
    or image.png."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """The network's weights and precision."""

    model_path: str = "default"
    """Weights: default, depth, epipolar, or a .pth or .safetensors file."""
    precision: Precision = "auto"
    """Network precision; auto: fp16 on a CUDA GPU, fp32 elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where to compute."""

    device: str = "auto"
    """Device: cpu, cuda, cuda:1, mps; auto: a GPU if there is one."""
    ray: RayCluster = "off"
    """Distribute the work with Ray. auto: over the cluster this machine belongs to; local: over this machine's GPUs."""


@dataclass(frozen=True, kw_only=True)
class PairChoice:
    """Parameters of the pairing strategies."""

    overlap: int = 10
    """sequential, rig: number of following images to match with."""
    loops: int = 0
    """sequential, rig: similar images to match with, to close loops."""
    pairs_file: Path | None = None
    """list: text file with lines `name0 name1`, names with or without extension."""
    top_k: int = 20
    """retrieval, spatial: similar or near images to match with."""
    max_distance: float | None = None
    """spatial: maximum distance of matched images in metres; default: no limit."""


@dataclass(frozen=True, kw_only=True)
class MatcherChoice:
    """How the features of two images are matched."""

    rt: float | None = DEFAULT_RATIO
    """mnn: threshold of the ratio test, both ways; None: no test."""
    matcher: MatcherName = "mnn"
    """mnn: exact mutual nearest neighbours; lightglue: learned matcher, needs the extra lightglue."""
    matcher_weights: Path | None = None
    """lightglue: weights file; default: downloaded."""


@dataclass(frozen=True, kw_only=True)
class CameraChoice:
    """The initial cameras for COLMAP."""

    camera_model: str = "simple-radial"
    """Any COLMAP camera model, such as simple-pinhole, pinhole, opencv or opencv-fisheye; distortion starts at 0."""
    camera_per: Literal["image", "folder", "collection"] = "image"
    """Images that share a camera: none, those of a folder, or all."""
    single_camera: bool = False
    """Same as --camera-per collection."""
    camera_params: str | None = None
    """Known parameters, in COLMAP's order for the model: 920.5,512,341,-0.02"""
    cameras: Path | None = None
    """Known cameras: a COLMAP model, or a cameras.txt or .bin with one for all."""


@dataclass(frozen=True, kw_only=True)
class TwoViews:
    """Thresholds of two-view verification, which also runs an a-contrario test (NFA < 1)."""

    max_error: float = 4.0
    """Maximum error of an inlier of two-view geometry, in pixels."""
    min_inliers: int = 15
    """Minimum number of inliers, besides the a-contrario test."""


@dataclass(frozen=True, kw_only=True)
class MapperChoice:
    """How to map verified pairs."""

    mapper: Literal["incremental", "global"] = "incremental"
    """incremental: one image after the other, as COLMAP; global: all at once, as GLOMAP, faster for many images."""
    fix_intrinsics: bool = False
    """Keep the given focal lengths and distortion; default: refine them."""
    remap: bool = False
    """Map from scratch; default: add new photos to the existing model."""


@dataclass(frozen=True, kw_only=True)
class GpsChoice:
    """Whether to use the photos' GPS positions."""

    gps: Literal["auto", "off"] = "auto"
    """auto: use EXIF positions as pose priors; a model that agrees with them is in metres east, north, up; off: ignore
    them."""


@dataclass(frozen=True, kw_only=True)
class RigChoice:
    """Cameras mounted together and triggered at the same time."""

    rig: bool = False
    """Treat each folder in IMAGES as one camera of a rig; images of one instant share a name: left/0001.jpg,
    right/0001.jpg."""
    rig_config: Path | None = None
    """--rig: camera poses, as COLMAP's rig_config.json; default: estimated."""


@dataclass(frozen=True, kw_only=True)
class Seed:
    """The random seed: the same seed gives the same result, with the global mapper up to rounding."""

    seed: int = 0
    """Seed of robust estimation and mapping, for reproducible results."""
