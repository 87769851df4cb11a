"""Localizing photos in a model of `disk reconstruct`: retrieval, matching and absolute pose."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from disk.devices import choose_device
from disk.errors import ArtifactError, ColmapError, DiskError, PartialFailureError
from disk.images.listing import ImageFile, list_images
from disk.model.checkpoints import load, weights_hash
from disk.options import AnyPath, check_at_least, option
from disk.pipeline.detect import DetectOptions, check_detect, detect
from disk.pipeline.locate import LocalizeOptions, Located, Locator, shared_camera
from disk.pipeline.match_options import MatchOptions, check_match
from disk.pipeline.options import options_of
from disk.pipeline.precheck import check_matcher, read_sizes
from disk.pipeline.verify import check_seed
from disk.progress import counted, log, progress_bar
from disk.storage.artifacts import (
    IN_MODEL,
    KEYPOINTS,
    LOCALIZED,
    FeatureStore,
    artifacts_folder,
    beside,
    read_features,
)
from disk.storage.locks import folder_lock
from disk.storage.new_file import write_json
from disk.storage.reading import dataset_keys, open_h5
from disk.storage.shards import SHARD_BYTES, ShardWriter, keep_what_is_done

if TYPE_CHECKING:
    from disk.colmap.localization import LocalizedImage, PosedModel

__all__ = ["Localization", "LocalizeOptions", "Located", "localize", "read_poses"]

POSES = "poses.json"
_DETECTION = ("n", "height", "width", "max_size", "window", "subpixel", "mode")


@dataclass(frozen=True)
class Localization:
    """The result of a run; also the content of poses.json.

    model: its folder
    found: number of photos with a pose
    photos: the result of each photo, by path
    failed: photos that could not be read, and why
    localized: number of photos processed in this run
    """

    model: str
    found: int
    photos: dict[str, Located]
    failed: dict[str, str]
    localized: int


def localize(
    model: AnyPath, queries: AnyPath, out: AnyPath, options: LocalizeOptions = LocalizeOptions()
) -> Localization:
    """Localize photos in a model of `disk reconstruct`; write out/poses.json and out/sparse/0.

    Skips finished photos, so the same call resumes.
    model: folder of a reconstruction, with sparse/0 and artifacts/
    queries: a folder of photos, or one photo
    out: folder for the results

    Raises ColmapError without a model or if it does not belong to its features, ArtifactError if `out` was made with
    other options, PartialFailureError, which has the result, if some photos could not be read, and the errors of
    detection and matching.
    """
    model, queries, out = Path(model), Path(queries), Path(out)
    _check(options)
    files = list_images(queries, options.image_extension)
    sizes, failed = read_sizes(files)
    model_artifacts, sparse = _parts(model, out)
    from disk.colmap.localization import read_posed_model

    posed = read_posed_model(sparse)
    detection = _detection(model_artifacts, options)
    artifacts, partial = out / IN_MODEL, None
    with folder_lock(out), read_features(model_artifacts) as known:
        names = _names(posed, known)
        _check_camera(options, posed)
        try:
            detect(artifacts, queries, detection)
        except PartialFailureError as error:
            partial = error
        with folder_lock(artifacts), read_features(artifacts) as features:
            detected = set(features.names)
            here = [file for file in files if file.name in detected]
            undecoded = [f.relative for f in files if f.name not in detected and f.relative not in failed]
            failed |= dict.fromkeys(undecoded, "could not be decoded")
            writer = _writer(artifacts, options, posed, known)
            done = writer.done()
            todo = [file for file in here if file.name not in done]
            if todo:
                localizer = Locator(posed, names, known, features, sizes, options)
                _localize_all(localizer, todo, len(here), writer)
            writer.finish()
            photos, images = _read(artifacts, here)
        _write_model(out, images, posed)
    result = Localization(
        str(model.absolute()), sum(photo.found for photo in photos.values()), photos, failed, len(todo)
    )
    write_json(out / POSES, asdict(result))
    log.info("%d of %s localized in %s; poses in %s", result.found, counted(len(photos), "photo"), model, out / POSES)
    if partial:
        partial.result = result
        raise partial
    return result


def read_poses(out: Path) -> Localization:
    """Read out/poses.json. Raises ColmapError if `localize` has not finished or the file is not ours."""
    path = out / POSES
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        photos = {name: Located(**photo) for name, photo in content.pop("photos").items()}
        return Localization(**content, photos=photos)
    except FileNotFoundError:
        raise ColmapError(f"no {path}; run `disk localize` first") from None
    except (ValueError, TypeError, AttributeError, KeyError):
        raise ColmapError(f"{path} was not written by `disk localize`") from None


def _check(options: LocalizeOptions) -> None:
    check_at_least(options, top_k=1, min_inliers=1)
    if not 0 < options.max_error < math.inf:
        raise DiskError(f"{option('max_error', options.max_error)}: must be more than 0, and finite")
    if options.focal_length is not None:
        if not 0 < options.focal_length < math.inf:
            raise DiskError(f"{option('focal_length', options.focal_length)}: must be more than 0, and finite")
        if options.camera != "auto":
            raise DiskError(f"{option('focal_length')} replaces {option('camera')}; leave one out")
    if options.ray != "off":
        raise DiskError(f"{option('ray', options.ray)}: photos are localized on this machine only; leave it out")
    check_seed(options.seed)
    check_match(options_of(MatchOptions, options))
    check_matcher(options.matcher)
    choose_device(options.device)


def _parts(model: Path, out: Path) -> tuple[Path, Path]:
    """The artifacts and the sparse model of a reconstruction."""
    if not model.is_dir():
        raise ColmapError(f"{model}: no such folder")
    artifacts = artifacts_folder(model)
    sparse = beside(artifacts) / "sparse" / "0"
    if not (artifacts / KEYPOINTS).is_file() or not sparse.is_dir():
        raise ColmapError(
            f"{model} was not made by `disk reconstruct` or `disk triangulate`: it needs sparse/0, and its features in "
            "artifacts/"
        )
    if (out / "sparse").exists() and not ((out / POSES).exists() or (out / IN_MODEL / LOCALIZED).exists()):
        raise ArtifactError(f"{out} contains a model that was not made by `disk localize`; use another output")
    return artifacts, sparse


def _names(posed: PosedModel, known: FeatureStore) -> dict[str, str]:
    """Image names of the model by feature name. Raises ColmapError if the features are not those of the model."""
    paths = {known.image_path(name): name for name in known.names}
    for image, entry in posed.images.items():
        name = paths.get(image)
        if name is None or not np.allclose(known.keypoints(name), entry.keypoints, atol=1e-2):
            raise ColmapError(
                f"{beside(known.artifacts)}: the model was not made from the current features, such as those of {image}"
                "; run `disk map` or `disk reconstruct` again"
            )
    return {paths[image]: image for image in posed.images}


def _check_camera(options: LocalizeOptions, posed: PosedModel) -> None:
    if options.camera == "model" and not shared_camera(posed):
        raise ColmapError(
            f"{option('camera', 'model')}: the photos of the model do not share one camera; map them with "
            f"{option('single_camera', True)}, or use {option('camera', 'auto')}"
        )


def _detection(model_artifacts: Path, options: LocalizeOptions) -> DetectOptions:
    """The options of detection used for the model. Raises ArtifactError if it used other weights."""
    with read_features(model_artifacts) as known:
        before, weights = known.options, known.attributes.get("weights")
    if weights is not None and weights != weights_hash(load(options.model_path, "cpu")):
        raise ArtifactError(
            f"the features of {beside(model_artifacts)} were detected with other weights than "
            f"{option('model_path', options.model_path)}; use those of the model"
        )
    detection = DetectOptions(
        **{key: before[key] for key in _DETECTION if key in before},
        device=options.device,
        model_path=options.model_path,
        precision=options.precision,
        mask_dir=options.mask_dir,
        image_extension=options.image_extension,
        overwrite=options.overwrite,
        keep_going=options.keep_going,
    )
    check_detect(detection)
    return detection


def _writer(artifacts: Path, options: LocalizeOptions, posed: PosedModel, known: FeatureStore) -> ShardWriter:
    """The writer of localized.h5; results of an earlier model are discarded."""
    decisive = ("camera", "focal_length", "top_k", "max_error", "min_inliers", "seed", "rt", "matcher")
    digest = hashlib.sha256(posed.xyz.tobytes() + str(known.attributes).encode())
    for name, image in posed.images.items():
        digest.update(name.encode() + image.points.tobytes() + repr(image.camera).encode())
    attributes = {
        "format": "disk localized 1",
        "options": json.dumps({name: str(getattr(options, name)) for name in decisive}),
        "model": digest.hexdigest()[:16],
    }
    other = _model_of(artifacts) not in (None, attributes["model"])
    if other:
        log.warning("the model has changed: localizing all photos again")
    return ShardWriter(artifacts, "localized", [LOCALIZED], attributes, other or options.overwrite, SHARD_BYTES)


def _model_of(artifacts: Path) -> str | None:
    for path in (artifacts / LOCALIZED, *sorted(artifacts.glob(".localized-*.h5"))):
        if path.is_file() and h5py.is_hdf5(path):
            with open_h5(path) as file:
                return str(file.attrs.get("model"))
    return None


def _localize_all(
    localizer: Callable[[ImageFile], tuple[Located, np.ndarray]],
    todo: list[ImageFile],
    total: int,
    writer: ShardWriter,
) -> None:
    bar = progress_bar("localize", "photo", total=total, initial=total - len(todo))
    with keep_what_is_done(writer.flush), bar:
        for file in todo:
            located, seen = localizer(file)
            writer.add(file.name, {LOCALIZED: seen}, {"result": json.dumps(asdict(located))})
            bar.update(1)


def _read(artifacts: Path, files: list[ImageFile]) -> tuple[dict[str, Located], dict[str, LocalizedImage]]:
    """The result of each photo by path, and the localized photos as images of a model."""
    from disk.colmap.cameras import KnownCamera
    from disk.colmap.localization import LocalizedImage

    photos: dict[str, Located] = {}
    images: dict[str, LocalizedImage] = {}
    if not (artifacts / LOCALIZED).is_file():
        return photos, images
    with open_h5(artifacts / LOCALIZED) as file:
        done = set(dataset_keys(file))
        for photo in files:
            if photo.name not in done:
                continue
            dataset = file[photo.name]
            located = photos[photo.relative] = Located(**json.loads(dataset.attrs["result"]))
            if located.rotation and located.translation and located.camera:
                camera = KnownCamera(**located.camera | {"params": tuple(located.camera["params"])})
                seen = dataset[()]
                images[photo.relative] = LocalizedImage(
                    located.rotation, located.translation, camera, seen[:, :2], seen[:, 2].astype(np.int64)
                )
    return photos, images


def _write_model(out: Path, images: dict[str, LocalizedImage], posed: PosedModel) -> None:
    from disk.colmap.localization import write_localized

    shutil.rmtree(out / "sparse", ignore_errors=True)
    if images:
        write_localized(out / "sparse" / "0", images, posed)
