"""Options that several stages share, each written once."""

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
    """Which files of a folder are its images."""

    image_extension: str | None = None
    """Only images with this extension, any case; default: every supported type."""


@dataclass(frozen=True, kw_only=True)
class FrameChoice:
    """Which frames of a video are its photos."""

    fps: float = 2.0
    """Frames a second of a video: it is cut into equal parts, and the sharpest frame of each is kept."""
    frames: int | None = None
    """Frames of the whole video, in place of --fps."""


@dataclass(frozen=True, kw_only=True)
class MaskFolder:
    """Where no features may be."""

    mask_dir: Path | None = None
    """Folder of masks, 0 where no features may be: that of image.jpg is image.jpg.png, as in COLMAP, or image.png."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """The network, and how it computes."""

    model_path: str = "default"
    """Weights: default, depth, epipolar, or a .pth or .safetensors file."""
    precision: Precision = "auto"
    """Arithmetic of the network; auto: fp16 on a CUDA GPU, fp32 elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which devices and machines do the work."""

    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:1, mps; auto: a GPU if there is one."""
    ray: RayCluster = "off"
    """auto: on all machines of the Ray cluster this one belongs to; local: on all GPUs of this one, by Ray."""


@dataclass(frozen=True, kw_only=True)
class PairChoice:
    """What the ways to choose pairs need."""

    overlap: int = 10
    """sequential, rig: images after each one that it is matched with; rig: of the same camera."""
    loops: int = 0
    """sequential, rig: similar images further off that each one is matched with as well, to close loops."""
    pairs_file: Path | None = None
    """list: text file of `name0 name1` lines, names with or without extension."""
    top_k: int = 20
    """retrieval: most similar images that each one is matched with; spatial: nearest ones."""
    max_distance: float | None = None
    """spatial: metres beyond which images are not matched; default: no limit."""


@dataclass(frozen=True, kw_only=True)
class MatcherChoice:
    """How the features of two images are matched."""

    rt: float | None = DEFAULT_RATIO
    """mnn: keep a match if it is closer than this times the second nearest, both ways; None: no such test."""
    matcher: MatcherName = "mnn"
    """mnn: exact mutual nearest neighbours; lightglue: the learned matcher, from the extra of that name."""
    matcher_weights: Path | None = None
    """lightglue: file of its weights; default: fetched."""


@dataclass(frozen=True, kw_only=True)
class CameraChoice:
    """The cameras that COLMAP starts from."""

    camera_model: str = "simple-radial"
    """Any of COLMAP's models, such as simple-pinhole, pinhole, opencv or opencv-fisheye; distortion starts at 0."""
    camera_per: Literal["image", "folder", "collection"] = "image"
    """Which images share a camera: none, those in one folder, or all."""
    single_camera: bool = False
    """The same as --camera-per collection."""
    camera_params: str | None = None
    """Parameters of the camera where they are known, in COLMAP's order for its model: 920.5,512,341,-0.02"""
    cameras: Path | None = None
    """Known cameras: a COLMAP model of these images, or cameras.txt or .bin with the one camera of all."""


@dataclass(frozen=True, kw_only=True)
class TwoViews:
    """When matches agree with the geometry of two views."""

    max_error: float = 4.0
    """How far a match may be off the geometry of its two views, in pixels."""
    min_inliers: int = 15
    """A pair with fewer inliers, or as few as chance brings, keeps none."""


@dataclass(frozen=True, kw_only=True)
class MapperChoice:
    """How verified pairs become a model."""

    mapper: Literal["incremental", "global"] = "incremental"
    """incremental: image after image, as COLMAP; global: all at once, as GLOMAP, faster on many images."""
    fix_intrinsics: bool = False
    """Keep focal lengths and distortion as they are known; default: they are refined."""
    remap: bool = False
    """Map anew; default: new photos join the model that is there, which keeps its frame, its scale and its ids."""


@dataclass(frozen=True, kw_only=True)
class GpsChoice:
    """Whether the photos' positions on earth count."""

    gps: Literal["auto", "off"] = "auto"
    """auto: positions in EXIF are pose priors; a model they agree with is in metres east, north, up; off: not used."""


@dataclass(frozen=True, kw_only=True)
class RigChoice:
    """Cameras that are mounted together and fire together."""

    rig: bool = False
    """Each folder in IMAGES is a camera of a rig; images of one instant share a name: left/0001.jpg, right/0001.jpg."""
    rig_config: Path | None = None
    """--rig: where the cameras are mounted, as COLMAP's rig_config.json; default: found from the images."""


@dataclass(frozen=True, kw_only=True)
class Seed:
    """Where chance plays a part."""

    seed: int = 0
    """Of robust estimation and mapping: the same seed gives the same result (global: up to rounding)."""
