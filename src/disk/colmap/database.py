"""COLMAP databases: written from our artifacts, opened with clear errors."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pycolmap

from disk.colmap.plan import PlannedImage
from disk.colmap.schema import check_sound, keep_readable, make_readable
from disk.errors import ColmapError
from disk.progress import log, track
from disk.storage.artifacts import FeatureStore, MatchStore
from disk.storage.locks import file_lock
from disk.storage.names import image_name
from disk.storage.new_file import new_file

# (0, 0) is the centre of the first pixel in DISK, and its upper left corner in COLMAP
COLMAP_SHIFT = np.float32(0.5)
_SIDECARS = ("-wal", "-shm", "-journal")  # of an SQLite database


def write_database(path: Path, plan: Sequence[PlannedImage], features: FeatureStore, matches: MatchStore) -> None:
    """Write cameras, images, keypoints and matches to a database, atomically.

    Every COLMAP from 3.8 on opens it. Images are named by their paths with extension. If it replaces a database, images
    and cameras keep their ids, and pairs with the same cameras, keypoints and matches keep their two-view geometries.
    plan: from `plan_cameras` or `plan_known`

    Raises ColmapError or ArtifactError if the file cannot be written or another run holds it.
    """
    with file_lock(path), new_file(path) as temporary, contextlib.ExitStack() as stack:
        _remove(temporary)
        try:
            before = _earlier(path, stack)
            with _opened(temporary, "cannot write") as database:
                ids = _write_images(database, plan, features, before)
                unchanged = {name for name, image_id in ids.items() if before and _is_same(database, before, image_id)}
                for name0, name1 in track(matches.pairs(), "export matches", "pair"):
                    found = matches[name0, name1]
                    if found.shape[1]:
                        database.write_matches(ids[name0], ids[name1], found.T.astype(np.uint32))
                    if before and name0 in unchanged and name1 in unchanged:
                        _keep_geometry(database, before, *sorted((ids[name0], ids[name1])))
            stack.close()
            make_readable(temporary)
            # SQLite would replay the journal of a killed run into the new database
            _remove(path, _SIDECARS)
        finally:
            _remove(temporary, _SIDECARS)


def _earlier(path: Path, stack: contextlib.ExitStack) -> pycolmap.Database | None:
    """The database about to be replaced, open until the stack is closed; None if there is none or it is damaged."""
    if not path.is_file() or not _is_sqlite(path):
        return None
    try:
        check_sound(path)
        return stack.enter_context(_opened(path, "cannot read"))
    except ColmapError as error:
        log.warning("%s; writing it from scratch", error)
        return None


def _is_same(database: pycolmap.Database, before: pycolmap.Database, image_id: int) -> bool:
    """Whether an image has the name, camera and keypoints that it had before."""
    if not before.exists_image(image_id):
        return False
    images = [opened.read_image(image_id) for opened in (database, before)]
    if images[0].name != images[1].name or images[0].camera_id != images[1].camera_id:
        return False
    cameras = [_in_words(opened.read_camera(images[0].camera_id)) for opened in (database, before)]
    now, then = (opened.read_keypoints(image_id)[:, :2] for opened in (database, before))
    return cameras[0] == cameras[1] and np.array_equal(now, then)


def _keep_geometry(database: pycolmap.Database, before: pycolmap.Database, first: int, second: int) -> None:
    if before.exists_two_view_geometry(first, second) and np.array_equal(
        database.read_matches(first, second), before.read_matches(first, second)
    ):
        database.write_two_view_geometry(first, second, before.read_two_view_geometry(first, second))


def _write_images(
    database: pycolmap.Database,
    plan: Sequence[PlannedImage],
    features: FeatureStore,
    before: pycolmap.Database | None = None,
) -> dict[str, int]:
    """Write cameras and images and return the image ids by name.

    Each camera is the only sensor of a rig with the same id, and each image the only one of a frame with the same id.
    before: a database whose ids are kept; new images and cameras get ids after all of its own
    """
    images, cameras = _stable_ids(plan, before)
    written: set[int] = set()
    for image in plan:
        image_id, camera_id = images[image.file.name], cameras[image.number]
        if camera_id not in written:
            written.add(camera_id)
            image.camera.camera_id = camera_id
            database.write_camera(image.camera, use_camera_id=True)
            rig = pycolmap.Rig(rig_id=camera_id)
            rig.add_ref_sensor(image.camera.sensor_id)
            database.write_rig(rig, use_rig_id=True)
        entry = pycolmap.Image(name=image.file.relative, camera_id=camera_id, image_id=image_id)
        database.write_image(entry, use_image_id=True)
        frame = pycolmap.Frame(frame_id=image_id, rig_id=camera_id)
        frame.add_data_id(entry.data_id)
        database.write_frame(frame, use_frame_id=True)
        database.write_keypoints(image_id, features.keypoints(image.file.name) + COLMAP_SHIFT)
    return images


def _stable_ids(
    plan: Sequence[PlannedImage], before: pycolmap.Database | None
) -> tuple[dict[str, int], dict[int, int]]:
    """Image ids by name and camera ids by number, taken from `before` where it has them."""
    there = {image.name: image for image in before.read_all_images()} if before else {}
    next_image = max((image.image_id for image in there.values()), default=0) + 1
    next_camera = max((camera.camera_id for camera in before.read_all_cameras()), default=0) + 1 if before else 1
    images: dict[str, int] = {}
    cameras: dict[int, int] = {}
    taken: set[int] = set()
    for planned in plan:
        known = there.get(planned.file.relative)
        if known and planned.number not in cameras and known.camera_id not in taken:
            cameras[planned.number] = known.camera_id
            taken.add(known.camera_id)
    for planned in plan:
        known = there.get(planned.file.relative)
        images[planned.file.name] = known.image_id if known else next_image
        next_image += known is None
        if planned.number not in cameras:
            cameras[planned.number] = next_camera
            next_camera += 1
    return images, cameras


def fingerprint_of_plan(plan: Sequence[PlannedImage]) -> str:
    """The `fingerprint` of a database written by this plan."""
    return _fingerprint([(image.file.relative, image.number, image.camera) for image in plan])


def fingerprint(database: pycolmap.Database) -> str:
    """A digest of the images of a database, their cameras, and which images share one."""
    cameras = {camera.camera_id: camera for camera in database.read_all_cameras()}
    images = database.read_all_images()
    return _fingerprint([(image.name, image.camera_id, cameras[image.camera_id]) for image in images])


def _fingerprint(images: list[tuple[str, int, pycolmap.Camera]]) -> str:
    numbers: dict[int, int] = {}
    lines = []
    for name, number, camera in sorted(images, key=lambda image: image[0]):
        lines.append(f"{name!r} {numbers.setdefault(number, len(numbers))} {_in_words(camera)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _in_words(camera: pycolmap.Camera) -> str:
    size = camera.width, camera.height, camera.has_prior_focal_length
    return f"{camera.model_name} {size} {[float(value) for value in camera.params]}"


def refuse_other_file(path: Path) -> None:
    """Raise ColmapError if the path exists and is not a database, which writing a database must not replace."""
    if path.is_dir() or (path.exists() and path.stat().st_size and not _is_sqlite(path)):
        kind = "a folder" if path.is_dir() else "not a database"
        raise ColmapError(f"{path} is {kind} and is not overwritten; choose another path")


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(15) == b"SQLite format 3"


@contextlib.contextmanager
def open_database(path: Path) -> Iterator[pycolmap.Database]:
    """Open an existing COLMAP database and lock it for this run.

    Raises ColmapError if it is missing, another kind of file, or fails while in use; ArtifactError if another run
    holds it.
    """
    if not path.is_file():
        raise ColmapError(f"no database {path}; run `disk export` first")
    if not _is_sqlite(path):
        raise ColmapError(f"{path} is not a COLMAP database")
    with file_lock(path):
        check_sound(path)
        with _opened(path, "cannot use") as database:
            if not database.num_images():
                raise ColmapError(f"{path} holds no images; it is not a COLMAP database, or an empty one")
            yield database
        keep_readable(path)


def image_ids(database: pycolmap.Database) -> dict[str, int]:
    """Image ids by DISK's image names: the paths without extension."""
    images = database.read_all_images()
    return {image_name(image.name): image.image_id for image in images}


def difference(database: pycolmap.Database, features: FeatureStore, matches: MatchStore) -> str | None:
    """How a database differs from an export of these features and matches, in words; None if it does not."""
    ids = image_ids(database)
    if set(ids) != set(features.names):
        other = min(set(ids) ^ set(features.names))
        return f"{other!r} is in only one of them"
    for name in features.names:
        if not np.array_equal(database.read_keypoints(ids[name])[:, :2], features.keypoints(name) + COLMAP_SHIFT):
            return f"the keypoints of {name!r} differ"
    matched = 0
    for name0, name1 in matches.pairs():
        ours = matches[name0, name1]
        matched += ours.shape[1] > 0
        if not np.array_equal(database.read_matches(ids[name0], ids[name1]).T, ours):
            return f"the matches of {name0!r} and {name1!r} differ"
    if matched != database.num_matched_image_pairs():
        return "it has matches of other pairs"
    return None


@contextlib.contextmanager
def clear_errors(problem: str) -> Iterator[None]:
    """Turn an error of pycolmap, which quotes its source file, into a one-line ColmapError."""
    try:
        yield
    except RuntimeError as error:
        if str(error).startswith("No registered database"):
            reason = (
                "it is damaged or no database, its folder is not writable, the disk is full, or the file system is one "
                "of a network without locks or shared memory, which databases need: use a local disk"
            )
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
