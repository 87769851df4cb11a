"""Options shared by several stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from disk.matching.matcher import MatcherName
from disk.matching.nearest import DEFAULT_RATIO
from disk.options import Precision
from disk.pipeline.cluster import RayCluster


@dataclass(frozen=True, kw_only=True)
class ChosenImages:
    """Which files of a folder are used as images."""

    image_extension: str | None = None
    """Use only images with this extension, in any case; default: every supported type."""


@dataclass(frozen=True, kw_only=True)
class FrameChoice:
    """Which frames of a video are used as photos."""

    fps: float = 2.0
    """Frames to keep per second of video: the sharpest frame of each interval."""
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
    """Precision of the network; auto: fp16 on a CUDA GPU, fp32 elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where to compute."""

    device: str = "auto"
    """Device to compute on: cpu, cuda, cuda:1, mps; auto: a GPU if there is one."""
    ray: RayCluster = "off"
    """Distribute the work with Ray. auto: over the cluster this machine belongs to; local: over this machine's GPUs."""


@dataclass(frozen=True, kw_only=True)
class PairChoice:
    """Parameters of the pairing strategies."""

    overlap: int = 10
    """sequential, rig: match each image with this many following ones; rig: of the same camera."""
    loops: int = 0
    """sequential, rig: also match each image with this many similar, more distant ones, to close loops."""
    pairs_file: Path | None = None
    """list: text file with lines `name0 name1`, names with or without extension."""
    top_k: int = 20
    """retrieval, spatial: match each image with this many of the most similar, or nearest, ones."""
    max_distance: float | None = None
    """spatial: maximum distance between matched images, in metres; default: no limit."""


@dataclass(frozen=True, kw_only=True)
class MatcherChoice:
    """How the features of two images are matched."""

    rt: float | None = DEFAULT_RATIO
    """mnn: ratio test, both ways: keep a match closer than this times the second nearest; None: no ratio test."""
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
    """Which images share a camera: none, those in one folder, or all."""
    single_camera: bool = False
    """Same as --camera-per collection."""
    camera_params: str | None = None
    """Known camera parameters, in COLMAP's order for the camera model: 920.5,512,341,-0.02"""
    cameras: Path | None = None
    """Known cameras: a COLMAP model of these images, or a cameras.txt or .bin with one camera for all."""


@dataclass(frozen=True, kw_only=True)
class TwoViews:
    """Thresholds of two-view verification."""

    max_error: float = 4.0
    """Maximum distance of an inlier from the two-view geometry, in pixels."""
    min_inliers: int = 15
    """Minimum number of inliers of a verified pair, which also has to pass an a-contrario test (NFA < 1)."""


@dataclass(frozen=True, kw_only=True)
class MapperChoice:
    """How to map verified pairs."""

    mapper: Literal["incremental", "global"] = "incremental"
    """incremental: one image after the other, as COLMAP; global: all at once, as GLOMAP, faster for many images."""
    fix_intrinsics: bool = False
    """Keep the given focal lengths and distortion; default: refine them."""
    remap: bool = False
    """Map from scratch; default: add new photos to the existing model, which keeps its frame, scale and ids."""


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
    """--rig: poses of the cameras in the rig, as COLMAP's rig_config.json; default: estimated from the images."""


@dataclass(frozen=True, kw_only=True)
class Seed:
    """The random seed."""

    seed: int = 0
    """Seed of robust estimation and mapping: the same seed gives the same result (global: up to rounding)."""
