"""COLMAP databases: written from our artifacts, opened with clear errors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pycolmap

from disk.colmap.cameras import guess_camera
from disk.errors import ColmapError
from disk.images.listing import ImageFile
from disk.progress import track
from disk.storage.artifacts import FeatureStore, MatchStore
from disk.storage.locks import file_lock

# our (0, 0) is the centre of the first pixel, COLMAP's is its upper left corner
COLMAP_SHIFT = np.float32(0.5)
_SIDECARS = ("-wal", "-shm", "-journal")  # of an SQLite database

CameraPer = Literal["image", "folder", "collection"]
_SHARES: dict[CameraPer, Callable[[ImageFile], str]] = {
    "image": lambda image: image.relative,
    "folder": lambda image: PurePosixPath(image.relative).parent.as_posix(),
    "collection": lambda image: "",
}


def write_database(
    path: Path,
    images: Sequence[ImageFile],
    features: FeatureStore,
    matches: MatchStore,
    model: str,
    camera_per: CameraPer = "image",
) -> None:
    """Write cameras, images, keypoints and matches; the file appears when it is complete.

    Images are named by their paths with extension. A camera shared by several images is guessed from the
    first of them. Raises ColmapError for shared cameras over images of unequal size and when the
    file cannot be written, ArtifactError when another run has it, ImageError for a file that is no image.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with file_lock(path):
        _remove(temporary)
        try:
            with _opened(temporary, "cannot write") as database:
                ids = _write_images(database, images, features, model, camera_per)
                for name0, name1 in track(matches.pairs(), "export matches", "pair"):
                    found = matches[name0, name1]
                    if found.shape[1]:
                        database.write_matches(ids[name0], ids[name1], found.T.astype(np.uint32))
            # the log of a killed run would be replayed into the new database
            _remove(path, _SIDECARS)
            os.replace(temporary, path)
        finally:
            _remove(temporary)


def _write_images(
    database: pycolmap.Database,
    images: Sequence[ImageFile],
    features: FeatureStore,
    model: str,
    camera_per: CameraPer,
) -> dict[str, int]:
    """Image ids by name. Each camera is the only sensor of a rig of its own, each image of a frame."""
    cameras: dict[str, tuple[pycolmap.Camera, int, ImageFile]] = {}
    ids: dict[str, int] = {}
    for image in track(images, "export images", "image"):
        key = _SHARES[camera_per](image)
        guess = guess_camera(image.path, model)
        if key not in cameras:
            guess.camera_id = database.write_camera(guess)
            rig = pycolmap.Rig()
            rig.add_ref_sensor(guess.sensor_id)
            cameras[key] = guess, database.write_rig(rig), image
        camera, rig_id, first = cameras[key]
        if (camera.width, camera.height) != (guess.width, guess.height):
            raise ColmapError(
                f"{first.relative} is {camera.width} x {camera.height} and {image.relative} "
                f"{guess.width} x {guess.height}: they cannot share a camera; use one per image"
            )
        entry = pycolmap.Image(name=image.relative, camera_id=camera.camera_id)
        entry.image_id = ids[image.name] = database.write_image(entry)
        frame = pycolmap.Frame()
        frame.rig_id = rig_id
        frame.add_data_id(entry.data_id)
        database.write_frame(frame)
        database.write_keypoints(entry.image_id, features.keypoints(image.name) + COLMAP_SHIFT)
    return ids


@contextlib.contextmanager
def open_database(path: Path) -> Iterator[pycolmap.Database]:
    """An existing COLMAP database, for this run alone.

    Raises ColmapError for none, another kind of file, or an error while it is used, ArtifactError when another run
    has it.
    """
    if not path.is_file():
        raise ColmapError(f"no database {path}; run `disk export` first")
    with path.open("rb") as file:
        if file.read(15) != b"SQLite format 3":
            raise ColmapError(f"{path} is no COLMAP database")
    with file_lock(path), _opened(path, "cannot use") as database:
        if not database.num_images():
            raise ColmapError(f"{path} holds no images; it is no COLMAP database, or an empty one")
        yield database


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
