"""Rigs: cameras mounted together that fire together, as COLMAP's rigs and frames."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pycolmap

from disk.colmap.database import clear_errors
from disk.errors import ColmapError
from disk.options import option
from disk.progress import log
from disk.storage.new_file import write_json

_KEPT = 0.9  # with a rig, a smaller share of the images in the model means that its cameras are not rigid
# maps a database, with the poses in rigs fixed or not, and returns the models, largest first
Run = Callable[[Path, bool], list[pycolmap.Reconstruction]]


@dataclass(frozen=True, eq=False)
class Rig:
    """Cameras, each a folder of images, and their configuration for COLMAP.

    is_known: whether the configuration has the poses of the cameras in the rig
    """

    cameras: list[str]
    configs: list[pycolmap.RigConfig]
    is_known: bool


@dataclass(frozen=True)
class Mounted:
    """The pose of a camera in its rig, relative to the first camera: x_cam = R x_first + t.

    rotation: quaternion w, x, y, z
    translation: in units of the model
    """

    rotation: list[float]
    translation: list[float]


def rig_to_find(cameras: Sequence[str]) -> Rig:
    """A rig of cameras, given by their folders, whose poses are unknown."""
    config = pycolmap.RigConfig()
    config.cameras = [
        pycolmap.RigConfigCamera(ref_sensor=number == 0, image_prefix=f"{camera}/")
        for number, camera in enumerate(cameras)
    ]
    return Rig(list(cameras), [config], is_known=False)


def read_rig(path: Path, cameras: Sequence[str]) -> Rig:
    """Read a rig from COLMAP's rig_config.json.

    cameras: folders of the cameras

    Raises ColmapError for another kind of file, and for a rig of other cameras.
    """
    if not path.is_file():
        raise ColmapError(f"no file {path}")
    try:
        configs = pycolmap.read_rig_config(path)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).rpartition("] ")[2].split())
        raise ColmapError(f"{path} cannot be read as COLMAP's rig_config.json: {reason}") from None
    named: list[str] = []
    mounted = []
    for config in configs:
        changed = list(config.cameras)  # pycolmap hands out copies
        for camera in changed:
            named.append(camera.image_prefix.strip("/"))
            camera.image_prefix = f"{named[-1]}/"
            if not camera.ref_sensor:
                mounted.append(camera.cam_from_rig is not None)
        config.cameras = changed
    if sorted(named) != sorted(cameras):
        raise ColmapError(
            f"{path} is for cameras {', '.join(sorted(named)) or 'none'}, but the folders of the images are "
            f"{', '.join(sorted(cameras))}"
        )
    if any(mounted) and not all(mounted):
        raise ColmapError(f"{path} has the poses of some cameras only; give those of all, or of none")
    return Rig(list(cameras), configs, is_known=all(mounted))


def map_rig(run: Run, database: Path, scratch: Path, rig: Rig) -> list[pycolmap.Reconstruction]:
    """Map a database whose images are of a rig, and return the models.

    If the poses of the cameras in the rig are unknown, it maps without the rig first, to find them. If that fails or
    the rig does not fit, the models have no rig, and a warning says why.
    scratch: a folder for temporary files

    Raises ColmapError if the images of a folder have several cameras, or several folders share one.
    """
    _check_cameras(database, rig)
    if rig.is_known:
        return run(_applied(database, scratch / "rig.db", rig, None), True)
    log.info("mapping without the rig first, to find the poses of its cameras")
    first = run(database, False)
    if not first:
        return first
    with_rig = _applied(database, scratch / "rig.db", rig, pycolmap.Reconstruction(first[0]))
    unknown = _unknown(with_rig)
    if unknown:
        log.warning(
            "the rig is not used: the model has no image of %s together with another of the same instant",
            ", ".join(unknown),
        )
        return first
    second = run(with_rig, False)
    registered = second[0].num_reg_images() if second else 0
    if registered < _KEPT * first[0].num_reg_images():
        log.warning(
            "the rig is not used: the model has %d images with it and %d without; were images with the same name taken "
            "at the same instant?",
            registered, first[0].num_reg_images(),
        )  # fmt: skip
        return first
    return second


def mounted_cameras(model: pycolmap.Reconstruction) -> dict[str, Mounted]:
    """The poses of the cameras in a model's rigs, by folder, the first camera first; skips rigs of a single camera."""
    folders = {image.camera_id: image.name.partition("/")[0] for image in model.images.values()}
    found = {}
    for rig in model.rigs.values():
        if rig.num_sensors() < 2 or rig.ref_sensor_id.id not in folders:
            continue
        found[folders[rig.ref_sensor_id.id]] = Mounted([1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
        for sensor, pose in rig.non_ref_sensors.items():
            if pose is not None and sensor.id in folders:
                x, y, z, w = pose.rotation.quat.tolist()
                found[folders[sensor.id]] = Mounted([w, x, y, z], pose.translation.tolist())
    return found


def write_rig(path: Path, mounted: Mapping[str, Mounted]) -> None:
    """Write the poses of cameras in a rig as COLMAP's rig_config.json; the first camera is the reference."""
    cameras: list[dict[str, Any]] = []
    for camera, pose in mounted.items():
        entry: dict[str, Any] = {"image_prefix": f"{camera}/"}
        if cameras:
            entry |= {"cam_from_rig_rotation": pose.rotation, "cam_from_rig_translation": pose.translation}
        else:
            entry["ref_sensor"] = True
        cameras.append(entry)
    write_json(path, [{"cameras": cameras}])


def _check_cameras(database: Path, rig: Rig) -> None:
    with clear_errors(f"cannot use {database}"):
        opened = pycolmap.Database.open(database)
        images = opened.read_all_images()
        opened.close()
    used: dict[str, set[int]] = {}
    for image in images:
        used.setdefault(image.name.partition("/")[0], set()).add(image.camera_id)
    ids = [number for numbers in used.values() for number in numbers]
    if len(ids) > len(rig.cameras) or len(set(ids)) < len(ids):
        raise ColmapError(
            f"a rig needs exactly one camera per folder of images, but {database} has others; export with "
            f"{option('camera_per', 'folder')}"
        )


def _applied(database: Path, copy: Path, rig: Rig, model: pycolmap.Reconstruction | None) -> Path:
    """A copy of a database with the rig; unknown poses of its cameras are taken from the model."""
    shutil.copyfile(database, copy)
    with clear_errors(f"cannot use {database}"):
        opened = pycolmap.Database.open(copy)
        pycolmap.apply_rig_config(rig.configs, opened, model)  # type: ignore[arg-type]
        opened.close()
    return copy


def _unknown(database: Path) -> list[str]:
    """Folders of the cameras whose pose in their rig is unknown."""
    opened = pycolmap.Database.open(database)
    folders = {image.camera_id: image.name.partition("/")[0] for image in opened.read_all_images()}
    rigs = opened.read_all_rigs()
    opened.close()
    return sorted(folders[sensor.id] for rig in rigs for sensor, pose in rig.non_ref_sensors.items() if pose is None)
