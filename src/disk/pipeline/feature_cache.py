"""A cache for the features of many images in bounded memory, and an order of pairs that suits it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

import torch

from disk.errors import ArtifactError
from disk.features import Features
from disk.images.orientation import AS_STORED, upright_points, upright_size
from disk.shapes import Tensor
from disk.storage.artifacts import FeatureStore

Kept = TypeVar("Kept")
_UNIT = 0.01  # tolerance of the length of a stored descriptor; rounding to float16 changes it by less than 0.001


class FeatureCache(Generic[Kept]):
    """An LRU cache of features by image name, read from disk on demand; `reads` counts the images read.

    Keypoints are in pixels of the upright image, as LightGlue is trained; see `upright_image_size`.
    limit: size in bytes
    half: descriptors in half precision
    keep: converts the features to what is cached and returned

    Raises ArtifactError for descriptors that are not of unit length.
    """

    def __init__(self, store: FeatureStore, limit: int, half: bool, keep: Callable[[Features], Kept]) -> None:
        self.names = store.names
        self._store, self._limit, self._half, self._keep = store, limit, half, keep
        self._kept: OrderedDict[str, tuple[Kept, int]] = OrderedDict()
        self._bytes = 0
        self.reads = 0

    def __getitem__(self, name: str) -> Kept:
        return self._get(name)[0]

    def size_in_bytes(self, name: str) -> int:
        """Memory held by the features of one image."""
        return self._get(name)[1]

    def _get(self, name: str) -> tuple[Kept, int]:
        entry = self._kept.get(name)
        if entry is None:
            features = self._read(name)
            entry = self._kept[name] = self._keep(features), _size_in_bytes(features)
            self._bytes += entry[1]
            while self._bytes > self._limit and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1][1]
        self._kept.move_to_end(name)
        return entry

    def _read(self, name: str) -> Features:
        features = self._store[name]
        self.reads += 1
        lengths = torch.linalg.vector_norm(features.descriptors, dim=1)
        if not ((lengths - 1).abs() < _UNIT).all():
            raise ArtifactError(
                f"the descriptors of {name!r} do not have unit length, so they are not DISK's; detect the images again"
            )
        descriptors = features.descriptors.half() if self._half else features.descriptors
        return Features(self._upright(name, features.keypoints), descriptors, features.scores)

    def _upright(self, name: str, keypoints: Tensor) -> Tensor:
        orientation = self._store.orientation(name)
        if orientation == AS_STORED:
            return keypoints
        return torch.from_numpy(upright_points(keypoints.numpy(), orientation, self._store.image_size(name)))


def upright_image_size(store: FeatureStore, name: str) -> tuple[int, int]:
    """(width, height) of the upright image, in pixels. Raises ArtifactError if the file does not record it."""
    return upright_size(store.orientation(name), store.image_size(name))


def _size_in_bytes(features: Features) -> int:
    tensors = (features.keypoints, features.descriptors, features.scores)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def order_for_cache(
    pairs: Sequence[tuple[str, str]], counts: Mapping[str, int], capacity: int
) -> list[tuple[str, str]]:
    """Order pairs so that a cache of `capacity` features reads few images twice.

    Blocks of first images fill half of the cache, and the second images stream past each block. If everything fits,
    there is one block and each image is read once.
    counts: number of features of each image
    """
    half = capacity // 2 if sum(counts.values()) > capacity else capacity
    block_of: dict[str, int] = {}
    block = filled = 0
    for name in sorted({first for first, _ in pairs}):
        if filled and filled + counts[name] > half:
            block, filled = block + 1, 0
        block_of[name] = block
        filled += counts[name]
    return sorted(pairs, key=lambda pair: (block_of[pair[0]], pair[1], pair[0]))
