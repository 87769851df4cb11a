"""Unlimited training tuples, rendered from photos on the training device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from disk.datasets.records import PosedImage
from disk.datasets.synthesis.dice import Dice
from disk.datasets.synthesis.materials import draw_materials
from disk.datasets.synthesis.render import render
from disk.datasets.synthesis.scene import draw_scenes
from disk.datasets.synthesis.textures import build_store
from disk.datasets.synthesis.views import MAX_ANGLE, choose_views, draw_views
from disk.devices import send
from disk.errors import DatasetError, ImageError
from disk.geometry.camera import Camera
from disk.progress import log, track
from disk.shapes import Float, Tensor, UInt8

if TYPE_CHECKING:
    from disk.images.listing import ImageFile

MAX_SIDE = 1024
MAX_PHOTOS = 600  # up to 4 MB each in memory


@dataclass(frozen=True)
class RenderedTuples:
    """Rendered tuples with the same number of views: images in [0, 1] or 8-bit, depths, and cameras K, R, t."""

    numbers: Sequence[int]
    images: Float[Tensor, "n v 3 h w"] | UInt8[Tensor, "n v 3 h w"]
    depths: Float[Tensor, "n v h w"]
    K: Float[Tensor, "n v 3 3"]
    R: Float[Tensor, "n v 3 3"]
    t: Float[Tensor, "n v 3"]

    def __len__(self) -> int:
        return len(self.numbers)

    def pick(self, rows: slice) -> RenderedTuples:
        """Select some of the tuples."""
        return RenderedTuples(self.numbers[rows], *(part[rows] for part in self._parts))

    def to(self, device: torch.device | str) -> RenderedTuples:
        """Copy to another device; copies to a GPU are asynchronous."""
        return RenderedTuples(self.numbers, *(send(part, torch.device(device)) for part in self._parts))

    def views(self) -> list[list[PosedImage]]:
        """The views of each tuple."""
        return [
            [
                PosedImage(image, Camera(K, R, t), depth, f"{number}-{v}")
                for v, (image, depth, K, R, t) in enumerate(zip(*rows, strict=True))
            ]
            for number, *rows in zip(self.numbers, *self._parts, strict=True)
        ]

    @property
    def _parts(self) -> tuple[Tensor, ...]:
        return self.images, self.depths, self.K, self.R, self.t


class SceneSampler:
    """Renders tuples of posed images of random scenes with exact depth, textured with photos.

    A tuple depends only on the seed and its number; rendering it together with others changes it only by rounding.

    Raises DatasetError if there are no usable photos.
    """

    def __init__(
        self,
        photos: Path | Sequence[np.ndarray],
        height: int,
        width: int,
        views: int,
        device: torch.device | str,
        seed: int,
    ) -> None:
        self.height, self.width, self.views, self.seed = height, width, views, seed
        self.device = torch.device(device)
        # Apple GPUs lack float64
        self._renderer = torch.device("cpu") if self.device.type == "mps" else self.device
        arrays = _read_photos(photos, seed) if isinstance(photos, Path) else photos
        self.store = build_store(arrays).to(self._renderer)

    def tuples(self, numbers: Sequence[int]) -> list[list[PosedImage]]:
        """Render the tuples with the given numbers, as lists of views."""
        return self.render(numbers).views()

    @torch.no_grad()
    def render(self, numbers: Sequence[int]) -> RenderedTuples:
        """Render the tuples with the given numbers. On a GPU, many at once are faster."""
        dice = Dice([_mix(self.seed, number) for number in numbers])
        scenes = draw_scenes(dice)
        candidates = draw_views(dice, scenes, 5 * self.views + 2, self.height, self.width)
        wanted = dice.uniform(0, MAX_ANGLE)
        materials = draw_materials(dice, scenes, self.store).to(self._renderer)
        scenes, candidates = scenes.to(self._renderer), candidates.to(self._renderer)
        wanted = wanted.to(self._renderer)
        size = (self.height, self.width)
        views = choose_views(scenes, candidates, wanted, self.views, *size)
        images, depths = render(scenes, views, materials, self.store, *size)
        cameras = (views.K.float(), views.R.float(), views.t.float())
        return RenderedTuples(numbers, images, depths, *cameras).to(self.device)


def list_photos(folder: Path) -> Sequence[ImageFile]:
    """List the photos in a folder.

    Raises DatasetError if there are none.
    """
    from disk.images.listing import list_images

    try:
        return list_images(folder)
    except ImageError as error:
        raise DatasetError(str(error)) from error


def _mix(seed: int, number: int) -> int:
    """Derive a 63-bit seed from two numbers."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _read_photos(folder: Path, seed: int) -> Iterator[np.ndarray]:
    """Read the photos in a folder, downscaled to MAX_SIDE; a random MAX_PHOTOS of them if there are more."""
    from disk.images.reading import read_upright
    from disk.images.resizing import place

    files = list_photos(folder)
    if len(files) > MAX_PHOTOS:
        log.info("%s: using %d of %d photos", folder, MAX_PHOTOS, len(files))
        chosen = np.random.default_rng(seed).choice(len(files), MAX_PHOTOS, replace=False)
        files = [files[i] for i in sorted(chosen)]
    for file in track(files, "photos", "photo"):
        yield place(read_upright(file.path).pixels, max_size=MAX_SIDE)[0]
