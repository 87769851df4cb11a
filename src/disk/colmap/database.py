"""COLMAP databases: written from our artifacts, opened with clear errors."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pycolmap

from disk.colmap.cameras import KnownCamera, guess_camera, to_colmap
from disk.colmap.schema import check_sound, keep_readable, make_readable
from disk.errors import ColmapError
from disk.images.listing import ImageFile
from disk.images.reading import image_size
from disk.options import option
from disk.progress import track
from disk.storage.artifacts import FeatureStore, MatchStore
from disk.storage.locks import file_lock
from disk.storage.new_file import new_file

# our (0, 0) is the centre of the first pixel, COLMAP's is its upper left corner
COLMAP_SHIFT = np.float32(0.5)
_SIDECARS = ("-wal", "-shm", "-journal")  # of an SQLite database

CameraPer = Literal["image", "folder", "collection"]
_SHARES: dict[CameraPer, Callable[[ImageFile], str]] = {
    "image": lambda image: image.relative,
    "folder": lambda image: PurePosixPath(image.relative).parent.as_posix(),
    "collection": lambda image: "",
}


def write_database(path: Path, plan: Sequence[PlannedImage], features: FeatureStore, matches: MatchStore) -> None:
    """Write cameras, images, keypoints and matches; the file appears when it is complete.

    Every COLMAP from 3.8 on opens it. Images are named by their paths with extension. plan: as by `plan_cameras` or
    `plan_known`. Raises ColmapError or ArtifactError when the file cannot be written or another run has it.
    """
    with file_lock(path), new_file(path) as temporary:
        _remove(temporary)
        try:
            with _opened(temporary, "cannot write") as database:
                ids = _write_images(database, plan, features)
                for name0, name1 in track(matches.pairs(), "export matches", "pair"):
                    found = matches[name0, name1]
                    if found.shape[1]:
                        database.write_matches(ids[name0], ids[name1], found.T.astype(np.uint32))
            make_readable(temporary)
            # the log of a killed run would be replayed into the new database
            _remove(path, _SIDECARS)
        finally:
            _remove(temporary, _SIDECARS)


@dataclass(frozen=True, eq=False)
class PlannedImage:
    """An image and the camera that it will have; images of one number share it."""

    file: ImageFile
    number: int
    camera: pycolmap.Camera


def plan_cameras(images: Sequence[ImageFile], model: str, camera_per: CameraPer = "image") -> list[PlannedImage]:
    """The cameras of an export, guessed from the first image of each.

    Raises ColmapError for shared cameras over images of unequal size, ImageError for a file that is no image.
    """
    cameras: dict[str, tuple[int, pycolmap.Camera]] = {}
    check_shared_cameras(images, camera_per)
    plan = []
    for image in track(images, "cameras", "image"):
        key = _SHARES[camera_per](image)
        if key not in cameras:
            cameras[key] = len(cameras), guess_camera(image.path, model)
        plan.append(PlannedImage(image, *cameras[key]))
    return plan


def plan_known(images: Sequence[ImageFile], cameras: Mapping[str, KnownCamera]) -> list[PlannedImage]:
    """The cameras of an export where they are known, by the paths of images; equal ones are one camera.

    Raises ColmapError for an image whose size is not its camera's, ImageError for a file that is no image.
    """
    numbers: dict[KnownCamera, int] = {}
    plan = []
    for image in images:
        known = cameras[image.relative]
        size = image_size(image.path)
        if size != (known.width, known.height):
            raise ColmapError(
                f"{image.path} is {size[0]} x {size[1]} but its camera {known.width} x {known.height}; give the images "
                "that the cameras were calibrated with"
            )
        camera = to_colmap(known)
        camera.has_prior_focal_length = True
        plan.append(PlannedImage(image, numbers.setdefault(known, len(numbers)), camera))
    return plan


def check_shared_cameras(images: Sequence[ImageFile], camera_per: CameraPer) -> None:
    """Raise ColmapError where images of unequal size would share a camera, ImageError for a file that is no image."""
    firsts: dict[str, tuple[tuple[int, int], ImageFile]] = {}
    if camera_per == "image":
        return
    for image in images:
        width, height = image_size(image.path)
        (first_width, first_height), first = firsts.setdefault(_SHARES[camera_per](image), ((width, height), image))
        if (first_width, first_height) != (width, height):
            raise ColmapError(
                f"{first.relative} is {first_width} x {first_height} and {image.relative} "
                f"{width} x {height}: they cannot share a camera; use {option('camera_per', 'image')}, or folder"
            )


def _write_images(database: pycolmap.Database, plan: Sequence[PlannedImage], features: FeatureStore) -> dict[str, int]:
    """Image ids by name. Each camera is the only sensor of a rig of its own, each image of a frame."""
    rigs: dict[int, int] = {}
    cameras: dict[int, int] = {}
    ids: dict[str, int] = {}
    for image in plan:
        if image.number not in rigs:
            image.camera.camera_id = cameras[image.number] = database.write_camera(image.camera)
            rig = pycolmap.Rig()
            rig.add_ref_sensor(image.camera.sensor_id)
            rigs[image.number] = database.write_rig(rig)
        entry = pycolmap.Image(name=image.file.relative, camera_id=cameras[image.number])
        entry.image_id = ids[image.file.name] = database.write_image(entry)
        frame = pycolmap.Frame()
        frame.rig_id = rigs[image.number]
        frame.add_data_id(entry.data_id)
        database.write_frame(frame)
        database.write_keypoints(entry.image_id, features.keypoints(image.file.name) + COLMAP_SHIFT)
    return ids


def fingerprint_of_plan(plan: Sequence[PlannedImage]) -> str:
    """What `fingerprint` will say of the database that is written by this plan."""
    return _fingerprint([(image.file.relative, image.number, image.camera) for image in plan])


def fingerprint(database: pycolmap.Database) -> str:
    """Changes with the images of a database, their cameras and who shares them."""
    cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
    images = database.read_all_images()
    return _fingerprint([(image.name, image.camera_id, cameras[image.camera_id]) for image in images])


def _fingerprint(images: list[tuple[str, int, pycolmap.Camera]]) -> str:
    numbers: dict[int, int] = {}
    lines = []
    for name, number, camera in sorted(images, key=lambda image: image[0]):
        parameters = [float(value) for value in camera.params]
        size = camera.width, camera.height, camera.has_prior_focal_length
        lines.append(f"{name!r} {numbers.setdefault(number, len(numbers))} {camera.model_name} {size} {parameters}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def refuse_other_file(path: Path) -> None:
    """Raise ColmapError for a file that is there and no database: writing a database must not replace it."""
    if path.is_dir() or (path.exists() and path.stat().st_size and not _is_sqlite(path)):
        raise ColmapError(f"{path} is {'a folder' if path.is_dir() else 'no database'}, and is not replaced by one")


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"


@contextlib.contextmanager
def open_database(path: Path) -> Iterator[pycolmap.Database]:
    """An existing COLMAP database, for this run alone.

    Raises ColmapError for none, another kind of file, or an error while it is used, ArtifactError when another run
    has it.
    """
    if not path.is_file():
        raise ColmapError(f"no database {path}; run `disk export` first")
    if not _is_sqlite(path):
        raise ColmapError(f"{path} is no COLMAP database")
    with file_lock(path):
        check_sound(path)
        with _opened(path, "cannot use") as database:
            if not database.num_images():
                raise ColmapError(f"{path} holds no images; it is no COLMAP database, or an empty one")
            yield database
        keep_readable(path)


def image_ids(database: pycolmap.Database) -> dict[str, int]:
    """Image ids by our names: the path without extension."""
    images = database.read_all_images()
    return {PurePosixPath(image.name).with_suffix("").as_posix(): image.image_id for image in images}


def difference(database: pycolmap.Database, features: FeatureStore, matches: MatchStore) -> str | None:
    """In what a database is no export of these features and matches, in words; None when it is."""
    ids = image_ids(database)
    if set(ids) != set(features.names):
        other = min(set(ids) ^ set(features.names))
        return f"{other!r} is in one of them only"
    for name in features.names:
        if not np.array_equal(database.read_keypoints(ids[name])[:, :2], features.keypoints(name) + COLMAP_SHIFT):
            return f"the keypoints of {name!r} are others"
    matched = 0
    for name0, name1 in matches.pairs():
        ours = matches[name0, name1]
        matched += ours.shape[1] > 0
        if not np.array_equal(database.read_matches(ids[name0], ids[name1]).T, ours):
            return f"the matches of {name0!r} and {name1!r} are others"
    if matched != database.num_matched_image_pairs():
        return "it has matches of other pairs"
    return None


@contextlib.contextmanager
def clear_errors(problem: str) -> Iterator[None]:
    """Turn an error of pycolmap's, with the place in its source, into a ColmapError of one line."""
    try:
        yield
    except RuntimeError as error:
        if str(error).startswith("No registered database"):
            reason = "it is damaged or no database, its folder is not writable, or the disk is full"
        elif str(error).startswith("["):  # [database_sqlite.cc:1350] SQLite error: ...
            reason = str(error).rpartition("] ")[2].strip()
        else:
            raise
        raise ColmapError(f"{problem}: {reason}") from error
    except ValueError as error:
        if not str(error).startswith(("[", "Camera model")):  # [types.cc:107] Check failed: ...
            raise
        raise ColmapError(f"{problem}: it is damaged ({' '.join(str(error).split())})") from error


@contextlib.contextmanager
def _opened(path: Path, problem: str) -> Iterator[pycolmap.Database]:
    pycolmap.logging.minloglevel = int(pycolmap.logging.ERROR)
    with clear_errors(f"{problem} {path}"):
        database = pycolmap.Database.open(path)
        try:
            yield database
        finally:
            database.close()


def _remove(path: Path, suffixes: Sequence[str] = ("", *_SIDECARS)) -> None:
    for suffix in suffixes:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
