"""From a folder of photos to a sparse 3D model: detect, match, export, verify, map."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeVar

from disk.errors import ArtifactError, ColmapError, PartialFailureError
from disk.model.checkpoints import resolve
from disk.options import Precision
from disk.pipeline.cluster import RayCluster
from disk.pipeline.detect import DetectOptions, check_detect, detect
from disk.pipeline.export import ExportOptions, check_export, export, files_of_features
from disk.pipeline.match import MatchOptions, check_match, match
from disk.pipeline.verify import VerifyOptions, check_verify, verify
from disk.progress import log
from disk.storage.artifacts import read_features, read_matches
from disk.storage.locks import folder_lock
from disk.storage.shards import check_same

ALL_PAIRS_UP_TO = 200  # images; above, --pairs auto matches those that look alike
_FREE = ("device", "ray", "keep_going", "overwrite")  # may change from run to run without changing the model
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions:
    """The options of the stages that matter for a model; `disk detect --help` and so on say more."""

    n: int | Literal["auto"] | None = DetectOptions.n
    """Keypoint budget of an image, the best by score; auto: 4096; None: all."""
    max_size: int = DetectOptions.max_size
    """Shrink images whose long side is longer before detection, in pixels; 0: never."""
    image_extension: str | None = None
    """Only images with this extension, any case; default: every supported type."""
    mask_dir: Path | None = None
    """Folder of masks named as COLMAP does: the mask of image.jpg is image.jpg.png; no features where it is 0."""
    model_path: str = DetectOptions.model_path
    """Weights: default, depth, epipolar, or a .pth or .safetensors file."""
    precision: Precision = DetectOptions.precision
    """Arithmetic of the network; auto: fp16 on a CUDA GPU, fp32 elsewhere."""
    device: str = "auto"
    """Where to detect and match: cpu, cuda, cuda:1, mps; auto: a GPU if there is one."""
    ray: RayCluster = DetectOptions.ray
    """auto: detect and match on all machines of the Ray cluster this one belongs to; local: on all GPUs of this one."""
    pairs: Literal["auto", "exhaustive", "sequential", "list", "retrieval"] = "auto"
    """Which images are matched; auto: all pairs of up to 200 images, of more those that look alike."""
    overlap: int = MatchOptions.overlap
    """sequential: images after each one that it is matched with."""
    pairs_file: Path | None = None
    """list: text file of `name0 name1` lines, names with or without extension."""
    top_k: int = MatchOptions.top_k
    """retrieval: most similar images that each one is matched with."""
    rt: float | None = MatchOptions.rt
    """mnn: keep a match if it is closer than this times the second nearest, both ways; None: no such test."""
    matcher: Literal["mnn", "lightglue"] = MatchOptions.matcher
    """mnn: exact mutual nearest neighbours; lightglue: the learned matcher, from the extra of that name."""
    matcher_weights: Path | None = None
    """lightglue: file of its weights; default: fetched."""
    camera_model: str = ExportOptions.camera_model
    """Any of COLMAP's camera models, such as simple-pinhole, pinhole, opencv or opencv-fisheye."""
    camera_per: Literal["image", "folder", "collection"] = ExportOptions.camera_per
    """Which images share a camera: none, those in one folder, or all."""
    single_camera: bool = False
    """The same as --camera-per collection."""
    max_error: float = VerifyOptions.max_error
    """How far a match may be off the geometry of its two views, in pixels."""
    min_inliers: int = VerifyOptions.min_inliers
    """A pair with fewer inliers, or as few as chance brings, keeps none."""
    mapper: Literal["incremental", "global"] = "incremental"
    """incremental: image after image, as COLMAP; global: all at once, as GLOMAP, faster on many images."""
    seed: int = 0
    """Of robust estimation and mapping: the same seed gives the same model (global: up to rounding)."""
    keep_going: bool = False
    """Exit with 0 even when some images could not be read."""
    overwrite: bool = False
    """Start anew."""


@dataclass(frozen=True)
class Reconstruction:
    """What came out; also the content of summary.json.

    images: number of images with features; registered, points, track_length and reprojection_error (pixels) are of
    the largest model; models: the same of every model, with the names of its images; unconnected: images
    that are not in the largest model; seconds: of each stage in the run that made the model.
    """

    images: int
    registered: int
    points: int
    track_length: float
    reprojection_error: float
    unconnected: list[str]
    models: list[dict[str, Any]]
    seconds: dict[str, float]


def reconstruct(images: Path, out: Path, options: ReconstructOptions = ReconstructOptions()) -> Reconstruction:
    """Reconstruct a folder of photos into out/sparse/0, out/points.ply and out/summary.json.

    Stages that are done are skipped. Raises the errors of the stages, ArtifactError when `out` was made
    with other options, ColmapError when no images can be connected, PartialFailureError when images could not
    be read and the rest was done.
    """
    _check(options)
    partial: PartialFailureError | None = None
    artifacts, summary = out / "artifacts", out / "summary.json"
    seconds: dict[str, float] = {}
    with folder_lock(out):
        _same_options(out / "options.json", options)
        if options.overwrite:
            summary.unlink(missing_ok=True)
        with _timed(seconds, "detect"):
            try:
                detect(artifacts, images, _options_of(DetectOptions, options))
            except PartialFailureError as error:
                partial = error
        with read_features(artifacts) as features:
            count = len(features)
        if count < 2:
            raise ColmapError(f"{count} image in {images} has features; a model needs at least two images")
        with _timed(seconds, "match"):
            match(artifacts, _options_of(MatchOptions, options, pairs=_pairs(count, options), rt=_ratio(options)))
        database = out / "database.db"
        with _timed(seconds, "export"):
            if options.overwrite or not _is_exported(artifacts, database):
                summary.unlink(missing_ok=True)
                choice = _options_of(ExportOptions, options, database_path=database, overwrite=True)
                export(artifacts, images, choice)
        with _timed(seconds, "verify"):
            verified = verify(artifacts, _options_of(VerifyOptions, options, database_path=database))
        if not verified.connected:
            raise ColmapError(
                f"no two of the images in {images} have {options.min_inliers} matches that agree, and more than "
                "agree by chance: they need more overlap, more features (--n), or --max-size 0"
            )
        if verified.verified:
            summary.unlink(missing_ok=True)
        if summary.exists():
            log.info("%s is complete", out)
        else:
            _map(artifacts, images, out, options, seconds)
    result = read_summary(out)
    if partial:
        raise partial
    return result


def read_summary(out: Path) -> Reconstruction:
    """What `reconstruct` found, from out/summary.json; ColmapError when it did not finish."""
    path = out / "summary.json"
    try:
        return Reconstruction(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ColmapError(f"no {path}; run `disk reconstruct` first") from None
    except (ValueError, TypeError):
        raise ColmapError(f"{path} was not written by `disk reconstruct`") from None


def _options_of(kind: type[T], options: ReconstructOptions, **others: Any) -> T:
    """The options of one stage: those it shares with ours by name, and others."""
    names = {field.name for field in fields(kind)} & {field.name for field in fields(options)}  # type: ignore[arg-type]
    return kind(**{name: getattr(options, name) for name in names} | others)


def _check(options: ReconstructOptions) -> None:
    """Raise what a stage would have to say of its options, before one has run and the options are noted."""
    from disk.colmap.cameras import camera_model

    camera_model(options.camera_model)
    resolve(options.model_path)
    check_detect(_options_of(DetectOptions, options))
    check_match(_options_of(MatchOptions, options, pairs=_pairs(0, options), rt=_ratio(options)))
    check_export(_options_of(ExportOptions, options))
    check_verify(_options_of(VerifyOptions, options))


def _same_options(path: Path, options: ReconstructOptions) -> None:
    """Raise ArtifactError where the run to be continued had other options; note ours."""
    now = {key: str(value) for key, value in asdict(options).items() if key not in _FREE}
    if path.exists() and not options.overwrite:
        try:
            before = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            raise ArtifactError(f"{path} is damaged; use another folder, or --overwrite") from None
        check_same(path.parent, before, now)
    _write_json(path, now)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def _ratio(options: ReconstructOptions) -> float | None:
    # the default is for nearest neighbours; `match` refuses any other with lightglue
    return None if options.matcher == "lightglue" and options.rt == ReconstructOptions.rt else options.rt


def _pairs(count: int, options: ReconstructOptions) -> Literal["exhaustive", "sequential", "list", "retrieval"]:
    if options.pairs != "auto":
        return options.pairs
    if count <= ALL_PAIRS_UP_TO:
        return "exhaustive"
    log.info(
        "%d images: each is matched with the %d that look most alike; --pairs exhaustive matches all pairs",
        count, options.top_k,
    )  # fmt: skip
    return "retrieval"


def _is_exported(artifacts: Path, database: Path) -> bool:
    from disk.colmap.database import difference, open_database

    if not database.exists():
        return False
    with read_features(artifacts) as features, read_matches(artifacts) as matches, open_database(database) as db:
        return difference(db, features, matches) is None


def _map(artifacts: Path, images: Path, out: Path, options: ReconstructOptions, seconds: dict[str, float]) -> None:
    """Write the models, the points and at last summary.json, which tells that all is done."""
    from disk.colmap.mapping import map_images, write_ply

    with _timed(seconds, "map"):
        with read_features(artifacts) as features:
            found = files_of_features(features, images, options.image_extension)
        files = {file.relative: file.path for file in found}
        models = map_images(out / "database.db", files, out / "sparse", options.mapper, options.seed)
        write_ply(out / "sparse" / "0", out / "points.ply")
    largest = models[0]
    summary = Reconstruction(
        images=len(files),
        registered=len(largest.images),
        points=largest.points,
        track_length=largest.track_length,
        reprojection_error=largest.reprojection_error,
        unconnected=sorted(set(files) - set(largest.images)),
        models=[asdict(model) for model in models],
        seconds={stage: round(value, 3) for stage, value in seconds.items()},
    )
    _write_json(out / "summary.json", asdict(summary))


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = perf_counter()
    yield
    seconds[stage] = perf_counter() - start
