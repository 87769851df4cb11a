"""Reading and writing the file layouts of other programs: the IMW benchmark and hloc.

IMW (image-matching-benchmark, submission format of 2021): a folder per sequence with `keypoints.h5`, `descriptors.h5`
and `scores.h5` keyed by file stem, and `matches.h5` keyed `A-B`, A > B, (2, K), with all pairs. hloc: `features.h5`
with a group per image path, `matches.h5` with groups `name0/name1` that replace '/' in names by '-', and a list of
pairs. In both, as here, (0, 0) is the centre of the first pixel.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from disk.errors import ArtifactError
from disk.features import Features
from disk.progress import log, track
from disk.storage.artifacts import (
    DESCRIPTORS,
    KEYPOINTS,
    SCORES,
    FeatureStore,
    MatchStore,
    artifacts_folder,
    read_features,
)
from disk.storage.names import image_name
from disk.storage.new_file import write_text
from disk.storage.new_h5 import new_h5
from disk.storage.reading import dataset_keys, open_h5, read_numbers, stored_dataset

IMW_MATCHES = "matches.h5"
IMW_FILES = (KEYPOINTS, DESCRIPTORS, SCORES, IMW_MATCHES)
HLOC_FEATURES, HLOC_MATCHES, HLOC_PAIRS = "features.h5", "matches.h5", "pairs.txt"
HLOC_FILES = (HLOC_FEATURES, HLOC_MATCHES, HLOC_PAIRS)


def write_imw(features: FeatureStore, matches: MatchStore, out: Path) -> int:
    """Write the IMW layout, one sequence per folder of images: `out/FOLDER/keypoints.h5` and so on.

    Returns the number of pairs across folders, which the layout cannot hold.

    Raises ArtifactError if a file cannot be written.
    """
    sequences: dict[str, list[str]] = defaultdict(list)
    for name in features.names:
        sequences[PurePosixPath(name).parent.as_posix()].append(name)
    matched = set(matches.pairs())
    for folder, names in track(sequences.items(), "IMW sequences", "folder"):
        with (
            new_h5(out / folder / KEYPOINTS) as keypoints,
            new_h5(out / folder / DESCRIPTORS) as descriptors,
            new_h5(out / folder / SCORES) as scores,
        ):
            for name in names:
                found, stem = features[name], PurePosixPath(name).name
                keypoints[stem] = found.keypoints.numpy()
                descriptors[stem] = found.descriptors.numpy()
                scores[stem] = found.scores.numpy()
        with new_h5(out / folder / IMW_MATCHES) as file:
            by_stem = sorted(names, key=lambda name: PurePosixPath(name).name)
            for low, high in itertools.combinations(by_stem, 2):
                known = (low, high) in matched or (high, low) in matched
                indices = matches[high, low] if known else np.zeros((2, 0), np.int64)
                file[f"{PurePosixPath(high).name}-{PurePosixPath(low).name}"] = indices
    return sum(PurePosixPath(a).parent != PurePosixPath(b).parent for a, b in matched)


def write_hloc(
    features: FeatureStore,
    matches: MatchStore,
    paths: Mapping[str, str],
    sizes: Mapping[str, tuple[int, int]],
    out: Path,
) -> None:
    """Write the hloc layout: `out/features.h5`, `out/matches.h5`, `out/pairs.txt`.

    The score of a match is (1 + cosine of the descriptors) / 2, as in hloc.
    paths: path of each image relative to the image folder, with extension
    sizes: (width, height) of each image in pixels

    Raises ArtifactError if a file cannot be written, or if hloc could not tell two images apart.
    """
    flat_keys: dict[str, str] = {}
    for name in features.names:
        other = flat_keys.setdefault(_flat(paths[name]), paths[name])
        if other != paths[name]:
            raise ArtifactError(f"hloc cannot tell {other} and {paths[name]} apart ('/' becomes '-'); rename one")
    with new_h5(out / HLOC_FEATURES) as file:
        for name in track(features.names, "hloc features", "image"):
            found = features[name]
            group = file.create_group(paths[name])
            group["keypoints"] = found.keypoints.numpy()
            group["keypoint_scores"] = found.scores.numpy()
            group["descriptors"] = found.descriptors.numpy().T
            group["image_size"] = np.array(sizes[name])
    pairs = matches.pairs()
    with new_h5(out / HLOC_MATCHES) as file:
        for name0, group_of_pairs in itertools.groupby(track(pairs, "hloc matches", "pair"), lambda p: p[0]):
            first = features[name0].descriptors
            for _, name1 in group_of_pairs:
                rows, columns = matches[name0, name1]
                second = features[name1].descriptors
                cosine = (first[rows] * second[columns]).sum(1).numpy()
                wide = len(second) > np.iinfo(np.int16).max
                partner = np.full(len(first), -1, np.int32 if wide else np.int16)
                score = np.zeros(len(first), np.float16)
                partner[rows], score[rows] = columns, (1 + cosine) / 2
                group = file.create_group(f"{_flat(paths[name0])}/{_flat(paths[name1])}")
                group["matches0"], group["matching_scores0"] = partner, score
    # hloc splits lines at spaces, without support for quotes
    spaced = [pair for pair in pairs if len(f"{paths[pair[0]]} {paths[pair[1]]}".split()) != 2]
    if spaced:
        log.warning(
            "%s skips %d of %d pairs: hloc splits lines at spaces, so it cannot read names with spaces, such as %r or "
            "%r; features and matches hold all pairs; rename the images to use the list",
            out / HLOC_PAIRS, len(spaced), len(pairs), *(paths[name] for name in spaced[0]),
        )  # fmt: skip
    left_out = set(spaced)
    lines = "".join(f"{paths[name0]} {paths[name1]}\n" for name0, name1 in pairs if (name0, name1) not in left_out)
    write_text(out / HLOC_PAIRS, lines)


class HlocFeatures:
    """Features in hloc's layout, read one image at a time; names have no extension, as in FeatureStore."""

    def __init__(self, path: Path) -> None:
        self._file = open_h5(path)
        self.paths: dict[str, str] = {}  # name -> path with extension, the key in the file
        for key in dataset_keys(self._file):
            if key.endswith("/keypoints"):
                image = key.removesuffix("/keypoints")
                name = image_name(image)
                if name in self.paths:
                    raise ArtifactError(f"{path}: {self.paths[name]} and {image} share the name {name!r}")
                self.paths[name] = image
        if not self.paths:
            raise ArtifactError(f"{path} holds no features in hloc's layout")
        self.names: list[str] = sorted(self.paths)

    def __enter__(self) -> HlocFeatures:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, name: str) -> Features:
        """Features of one image, float32; scores are zeros if the file has none, see `has_scores`.

        Raises ArtifactError for bad data.
        """
        keypoints = self.keypoints(name)
        descriptors = self._array(name, "descriptors")
        if descriptors.ndim != 2 or descriptors.shape[1] != len(keypoints):
            raise ArtifactError(f"{self._file.filename}: {name!r} has descriptors {descriptors.shape}, not (D, N)")
        key = self._scores_key(name)
        scores = np.zeros(len(keypoints), np.float32) if key is None else self._array(name, key)
        if scores.shape != (len(keypoints),):
            raise ArtifactError(f"{self._file.filename}: {name!r} has {key} {scores.shape}, not ({len(keypoints)},)")
        rows = np.ascontiguousarray(descriptors.T)
        return Features(torch.from_numpy(keypoints), torch.from_numpy(rows), torch.from_numpy(scores))

    def has_scores(self, name: str) -> bool:
        """Whether the file has scores for the keypoints of an image."""
        return self._scores_key(name) is not None

    def _scores_key(self, name: str) -> str | None:
        """hloc writes `keypoint_scores` since 2021; before that, and in other programs, the key is `scores`."""
        keys = ("keypoint_scores", "scores")
        return next((key for key in keys if stored_dataset(self._file, f"{self.paths[name]}/{key}") is not None), None)

    def keypoints(self, name: str) -> np.ndarray:
        """Keypoints of one image, (N, 2) float32 in pixels. Raises ArtifactError for bad data."""
        keypoints = self._array(name, "keypoints")
        if keypoints.ndim != 2 or keypoints.shape[1] < 2:
            raise ArtifactError(f"{self._file.filename}: {name!r} has keypoints {keypoints.shape}, not (N, 2)")
        return np.ascontiguousarray(keypoints[:, :2])

    def image_size(self, name: str) -> tuple[int, int]:
        """(width, height) of the image; ArtifactError if the file does not tell it."""
        size = self._array(name, "image_size")
        if size.shape != (2,) or not (np.isfinite(size) & (size >= 1)).all():
            raise ArtifactError(f"{self._file.filename}: {name!r} has image_size {size}, not a width and a height")
        return int(size[0]), int(size[1])

    def _array(self, name: str, key: str) -> np.ndarray:
        item = stored_dataset(self._file, f"{self.paths.get(name, name)}/{key}")
        if item is None or item.dtype.kind not in "fiu":
            raise ArtifactError(f"{self._file.filename} has no {key} of {name!r}")
        return read_numbers(item).astype(np.float32)


def open_features(path: Path) -> FeatureStore | HlocFeatures:
    """Features in any layout: a folder of DISK (also the original) or IMW, or the file or folder of hloc.

    Raises ArtifactError if there are none.
    """
    if (artifacts_folder(path) / KEYPOINTS).is_file():
        return read_features(path)
    file = path / HLOC_FEATURES if path.is_dir() else path
    if file.is_file():
        return HlocFeatures(file)
    raise ArtifactError(f"no features in {path}: neither {KEYPOINTS} (DISK, IMW) nor {HLOC_FEATURES} (hloc)")


def _flat(image: str) -> str:
    return image.replace("/", "-")
