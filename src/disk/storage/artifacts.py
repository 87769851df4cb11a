"""Reading and writing the artifacts of a run: features, matches, inliers.

`keypoints.h5`, `descriptors.h5` and `scores.h5` hold one dataset per image; `matches.h5` and
`inliers.h5` one group per first image with one dataset per second image. Files written by the original
DISK are read as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from disk.errors import ArtifactError
from disk.features import Features
from disk.options import AnyPath
from disk.storage.names import check_below, decode_name, pair_key
from disk.storage.reading import dataset_keys, open_h5, read_numbers, reading, stored_attributes, stored_dataset
from disk.storage.shards import ShardWriter, remove_artifacts

KEYPOINTS, DESCRIPTORS, SCORES = "keypoints.h5", "descriptors.h5", "scores.h5"
MATCHES, UNMATCHED, INLIERS = "matches.h5", "unmatched.h5", "inliers.h5"
LOCALIZED = "localized.h5"  # results of `disk localize` per image
IN_MODEL = "artifacts"  # the sub-folder with the artifacts in the output of `disk reconstruct`
COORDINATES = "x right, y down, in pixels of the image as stored; (0, 0) is the centre of the first pixel"


class FeatureStore:
    """The features in a folder of artifacts, read one image at a time; a context manager."""

    def __init__(self, artifacts: Path) -> None:
        if not (artifacts / KEYPOINTS).is_file():
            raise ArtifactError(f"no {KEYPOINTS} in {artifacts}; run `disk detect` first")
        self.artifacts = artifacts
        self._keypoints = open_h5(artifacts / KEYPOINTS)
        self._descriptors = open_h5(artifacts / DESCRIPTORS) if (artifacts / DESCRIPTORS).is_file() else None
        self._scores = open_h5(artifacts / SCORES) if (artifacts / SCORES).is_file() else None
        self.names: list[str] = dataset_keys(self._keypoints)
        for name in self.names:
            check_below(name, str(artifacts / KEYPOINTS))
        self.attributes: dict[str, str] = {k: str(v) for k, v in stored_attributes(self._keypoints).items()}

    @property
    def options(self) -> dict[str, Any]:
        """The options of detection; empty if the file does not tell them (files of the original DISK do not).

        Raises ArtifactError if they are damaged.
        """
        try:
            return dict(json.loads(self.attributes.get("options", "{}")))
        except (ValueError, TypeError, RecursionError):
            raise ArtifactError(f"{self.artifacts / KEYPOINTS} has options that DISK did not write") from None

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for file in (self._keypoints, self._descriptors, self._scores):
            if file is not None:
                file.close()

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str) -> Features:
        """Features of one image, float32; scores are zeros if there is no scores.h5.

        Raises ArtifactError for bad data.
        """
        keypoints = self.keypoints(name)
        if self._descriptors is None:
            raise ArtifactError(f"no {DESCRIPTORS} in {self.artifacts}; run `disk detect` first")
        descriptors = _read(self._descriptors, name, (len(keypoints), None))
        if self._scores is None:
            scores = np.zeros(len(keypoints), np.float32)
        else:
            scores = _read(self._scores, name, (len(keypoints),))
        return Features(
            torch.from_numpy(keypoints),
            torch.from_numpy(descriptors),
            torch.from_numpy(scores),
            self.image_size(name) if self._has_image_size(name) else None,
        )

    def keypoints(self, name: str) -> np.ndarray:
        """Keypoints of one image, (N, 2) float32 in pixels."""
        return _read(self._keypoints, name, (None, 2))

    def scores(self, name: str) -> np.ndarray:
        """Scores of one image, (N,) float32; zeros if there is no scores.h5."""
        if self._scores is None:
            return np.zeros(len(self.keypoints(name)), np.float32)
        return _read(self._scores, name, (None,))

    def image_size(self, name: str) -> tuple[int, int]:
        """(width, height) of the image; ArtifactError if the file does not tell it, as those of the original DISK."""
        size = np.asarray(self._attribute(name, "image_size"))
        if size.shape != (2,) or size.dtype.kind not in "iu" or size.min() < 1:
            raise ArtifactError(f"{self.artifacts / KEYPOINTS}: {name!r} has no image_size of two whole numbers")
        return int(size[0]), int(size[1])

    def _has_image_size(self, name: str) -> bool:
        return "image_size" in stored_attributes(_dataset(self._keypoints, name))

    def image_path(self, name: str) -> str:
        """Path of the image relative to the image folder, with extension; ArtifactError as for `image_size`."""
        return str(self._attribute(name, "image_path"))

    def orientation(self, name: str) -> int:
        """The EXIF orientation (1 to 8) in which the network saw the image; 1 if the file does not tell it.

        Raises ArtifactError for another number.
        """
        value = stored_attributes(_dataset(self._keypoints, name)).get("orientation", 1)
        if value not in range(1, 9):
            raise ArtifactError(f"{self.artifacts / KEYPOINTS}: {name!r} has orientation {value!r}, not 1 to 8")
        return int(value)

    def _attribute(self, name: str, key: str) -> Any:
        value = stored_attributes(_dataset(self._keypoints, name)).get(key)
        if value is None:
            raise ArtifactError(f"{self.artifacts / KEYPOINTS} has no {key} of {name!r}; run `disk detect` again")
        return value


class MatchStore:
    """Matches of image pairs, read one pair at a time; a context manager."""

    def __init__(self, path: Path) -> None:
        self._file = open_h5(path)

    def __enter__(self) -> MatchStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    @property
    def attributes(self) -> dict[str, str]:
        """The attributes of the file, which record how it was made."""
        return {key: str(value) for key, value in stored_attributes(self._file).items()}

    def pairs(self) -> list[tuple[str, str]]:
        """All pairs (name0, name1), sorted. Raises ArtifactError if the file does not hold matches."""
        pairs = []
        with reading(self._file):
            for key0, group in self._file.items():
                if not isinstance(group, h5py.Group):
                    raise ArtifactError(f"{self._file.filename} is not a file of matches: {key0!r} is not a group")
                pairs += [(decode_name(key0), decode_name(key1)) for key1 in group]
        return sorted(pairs)

    def __contains__(self, pair: object) -> bool:
        if not isinstance(pair, tuple):
            return False
        return pair_key(*pair) in self._file or pair_key(*pair[::-1]) in self._file

    def __getitem__(self, pair: tuple[str, str]) -> np.ndarray:
        """Matches of a pair, (2, K) int64; row 0 indexes the first image of `pair`, whatever order is stored."""
        key, swapped = self._key(pair)
        matches = _read(self._file, key, (2, None), np.int64)
        return np.ascontiguousarray(matches[::-1]) if swapped else matches

    def count(self, pair: tuple[str, str]) -> int:
        """The number of matches of a pair, without reading them."""
        key, _ = self._key(pair)
        return int(_shaped(self._file, key, (2, None)).shape[1])

    def _key(self, pair: tuple[str, str]) -> tuple[str, bool]:
        """The key of a pair, and whether the file has its images in the other order."""
        swapped = pair_key(*pair) not in self._file
        return pair_key(*(pair[::-1] if swapped else pair)), swapped


def is_artifact(path: Path) -> bool:
    """Whether a file is an artifact of this program, not another program's file of the same name."""
    try:
        with open_h5(path) as file:
            return str(file.attrs.get("format", "")).startswith("disk ")
    except ArtifactError:
        return False


def artifacts_folder(folder: AnyPath) -> Path:
    """The folder of artifacts; for the output of `disk reconstruct`, its sub-folder with the artifacts."""
    folder = Path(folder)
    inside = folder / IN_MODEL
    return inside if not (folder / KEYPOINTS).is_file() and (inside / KEYPOINTS).is_file() else folder


def beside(artifacts: AnyPath) -> Path:
    """The parent of the folder of artifacts, the default place for what is made from them."""
    folder = artifacts_folder(artifacts)
    return folder.parent if folder.name not in ("", "..") else folder.resolve().parent


def default_database(artifacts: AnyPath) -> Path:
    """The default path of the COLMAP database of a folder of artifacts."""
    return beside(artifacts) / "database.db"


def read_features(artifacts: AnyPath) -> FeatureStore:
    """The features written by `disk detect` or the original DISK; ArtifactError if there are none."""
    return FeatureStore(artifacts_folder(artifacts))


def read_matches(artifacts: AnyPath, file: str = MATCHES) -> MatchStore:
    """The matches in a folder of artifacts; ArtifactError if there are none."""
    path = artifacts_folder(artifacts) / file
    if not path.is_file():
        command = "verify" if file == INLIERS else "match"
        raise ArtifactError(f"no {file} in {artifacts}; run `disk {command}` first")
    return MatchStore(path)


def feature_writer(
    artifacts: Path, options: Mapping[str, Any], weights: str, overwrite: bool, shard_bytes: int
) -> ShardWriter:
    """A writer of the three feature files; `options` and `weights` must equal those of the run it resumes.

    overwrite: also deletes matches and inliers, since they refer to the old keypoints
    """
    if overwrite:
        for file in (MATCHES, UNMATCHED, INLIERS):
            remove_artifacts(artifacts, Path(file).stem, [file])
    attributes = {
        "format": "disk features 1",
        "coordinates": COORDINATES,
        "weights": weights,
        "options": json.dumps(dict(options), sort_keys=True),
    }
    return ShardWriter(artifacts, "features", (KEYPOINTS, DESCRIPTORS, SCORES), attributes, overwrite, shard_bytes)


def _dataset(file: h5py.File, key: str) -> h5py.Dataset:
    item = stored_dataset(file, key)
    if item is None:
        raise ArtifactError(f"{file.filename} has no {key!r}")
    return item


def _read(file: h5py.File, key: str, shape: tuple[int | None, ...], dtype: Any = np.float32) -> np.ndarray:
    return read_numbers(_shaped(file, key, shape)).astype(dtype, copy=False)


def _shaped(file: h5py.File, key: str, shape: tuple[int | None, ...]) -> h5py.Dataset:
    dataset = _dataset(file, key)
    fits = len(dataset.shape) == len(shape) and all(
        want is None or have == want for have, want in zip(dataset.shape, shape, strict=True)
    )
    if not fits or dataset.dtype.kind not in "fiu":
        wanted = " x ".join("N" if size is None else str(size) for size in shape)
        raise ArtifactError(
            f"{file.filename} was written by another program: {key!r} is {dataset.dtype} of shape "
            f"{dataset.shape}, not numbers of shape {wanted}"
        )
    return dataset
