"""The original's dataset.json format: scenes of posed images, and tuples of these images for training."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from disk.datasets.files import cut_name, find_calibration, find_depth, find_image
from disk.errors import DatasetError
from disk.options import option
from disk.shapes import Int
from disk.storage.names import leads_out
from disk.storage.new_file import write_text

_KEYS = ("image_path", "depth_path", "calib_path", "images", "tuples")


@dataclass(frozen=True, eq=False)
class Scene:
    """Posed images of one place.

    image_path: folder of images.
    calib_path: folder of calibrations.
    depth_path: folder of depth maps; None if there are none.
    images: file names with extension, relative to `image_path`, with '/' between folders.
    tuples: (N, k) indices into `images`; the images of a tuple overlap.
    """

    name: str
    image_path: Path
    calib_path: Path
    depth_path: Path | None
    images: Sequence[str]
    tuples: Int[np.ndarray, "n k"]

    def image_file(self, name: str) -> Path:
        """The file of an image; it need not exist."""
        return find_image(self.image_path, name, cut=self._is_alone(name))

    def calibration_file(self, name: str) -> Path | None:
        """The calibration file of an image, if there is one."""
        return find_calibration(self.calib_path, name)

    def depth_file(self, name: str) -> Path | None:
        """The depth file of an image, if there is one."""
        return None if self.depth_path is None else find_depth(self.depth_path, name, cut=self._is_alone(name))

    def _is_alone(self, name: str) -> bool:
        """Whether the name is still unique when cut at its first dot."""
        return self._cut_names[cut_name(name)] == 1

    @cached_property
    def _cut_names(self) -> Counter[PurePosixPath]:
        return Counter(cut_name(name) for name in self.images)


@dataclass(frozen=True, eq=False)
class SceneSet:
    """The scenes of one dataset.json; every tuple has `tuple_size` images."""

    path: Path
    scenes: Sequence[Scene]

    @property
    def tuple_size(self) -> int:
        """Number of images per tuple."""
        return self.scenes[0].tuples.shape[1]

    @classmethod
    def load(cls, path: Path) -> SceneSet:
        """Read a dataset.json.

        Folders in it are absolute or relative to the json. Scenes without tuples are skipped.
        path: the file, or its folder.

        Raises DatasetError if the file does not exist or is malformed.
        """
        path = path / "dataset.json" if path.is_dir() else path
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DatasetError(f"{path}: no such file; see `disk dataset --help` for how to get one") from error
        except (OSError, ValueError, RecursionError) as error:
            raise DatasetError(f"{path}: not a json file ({error})") from error
        if not isinstance(data, dict) or not data:
            raise DatasetError(f"{path}: not a data set; expected {{scene: {{{', '.join(_KEYS)}}}}}")
        scenes = [_parse_scene(f"{path}, scene {name!r}", name, entry, path.parent) for name, entry in data.items()]
        scenes = [scene for scene in scenes if len(scene.tuples)]
        if not scenes:
            raise DatasetError(f"{path}: no tuples to train on")
        size = scenes[0].tuples.shape[1]
        for scene in scenes:
            if scene.tuples.shape[1] != size:
                raise DatasetError(
                    f"{path}: tuples of {size} images in scene {scenes[0].name!r} but of "
                    f"{scene.tuples.shape[1]} in {scene.name!r}; all tuples must have the same length"
                )
        return cls(path, scenes)


def write_dataset_json(path: Path, scenes: Sequence[Scene], relative: bool) -> None:
    """Write scenes to a dataset.json, atomically.

    relative: write folders relative to the file instead of absolute.

    Raises DatasetError if a folder is on another drive than the file, and the errors of `new_file`.
    """

    def folder(target: Path) -> str:
        absolute = Path(os.path.abspath(target))
        if not relative:
            return str(absolute)
        try:
            return Path(os.path.relpath(absolute, os.path.abspath(path.parent))).as_posix()
        except ValueError as error:  # another drive
            raise DatasetError(
                f"{target} cannot be written relative to {path}; leave out {option('relative', True)}"
            ) from error

    data = {
        scene.name: {
            "image_path": folder(scene.image_path),
            "depth_path": None if scene.depth_path is None else folder(scene.depth_path),
            "calib_path": folder(scene.calib_path),
            "images": list(scene.images),
            "tuples": scene.tuples.tolist(),
        }
        for scene in scenes
    }
    write_text(path, json.dumps(data))


def _parse_scene(where: str, name: str, entry: Any, base: Path) -> Scene:
    if not isinstance(entry, dict):
        raise DatasetError(f"{where}: expected an object with {', '.join(_KEYS)}")
    missing = [key for key in _KEYS if key not in entry and key != "depth_path"]
    if missing:
        raise DatasetError(f"{where}: {', '.join(missing)} missing")
    images = entry["images"]
    if not isinstance(images, list) or not all(isinstance(image, str) and image for image in images):
        raise DatasetError(f"{where}: images must be a list of file names")
    outside = next((image for image in images if leads_out(image)), None)
    if outside is not None:
        raise DatasetError(f"{where}: image {outside!r} is not below image_path; set image_path to a folder above it")
    return Scene(
        name=name,
        image_path=_folder(f"{where}: image_path", entry["image_path"], base),
        calib_path=_folder(f"{where}: calib_path", entry["calib_path"], base),
        # the original writes '' with --no-depth
        depth_path=_folder(f"{where}: depth_path", depth, base) if (depth := entry.get("depth_path")) else None,
        images=images,
        tuples=_parse_tuples(where, entry["tuples"], len(images)),
    )


def _folder(where: str, value: Any, base: Path) -> Path:
    if not isinstance(value, str):
        raise DatasetError(f"{where} must be the name of a folder")
    if "\0" in value or not (base / value).is_dir():
        raise DatasetError(f"{where} {base / value} is not a folder; correct the path if the data were moved")
    return base / value


def _parse_tuples(where: str, tuples: Any, n_images: int) -> Int[np.ndarray, "n k"]:
    if not isinstance(tuples, list) or not all(isinstance(indices, list) for indices in tuples):
        raise DatasetError(f"{where}: tuples must be a list of lists of indices")
    if not tuples:
        return np.zeros((0, 0), dtype=np.int64)
    size = len(tuples[0])
    odd = next((i for i, indices in enumerate(tuples) if len(indices) != size), None)
    if odd is not None:
        raise DatasetError(
            f"{where}: tuple 0 has {size} images but tuple {odd} has {len(tuples[odd])}; all must have the same length"
        )
    if size < 2:
        raise DatasetError(f"{where}: a tuple needs at least 2 images")
    try:
        array = np.array(tuples)
    except ValueError:
        array = np.array("not numbers")
    if array.ndim != 2 or array.dtype.kind != "i":
        raise DatasetError(f"{where}: tuples must contain integers")
    bad = (array < 0).any(axis=1) | (array >= n_images).any(axis=1)
    bad |= (np.diff(np.sort(array, axis=1), axis=1) == 0).any(axis=1)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        raise DatasetError(
            f"{where}: tuple {first} is {array[first].tolist()}; its indices must be distinct and below the number of "
            f"images, {n_images}"
        )
    return array.astype(np.int64)
