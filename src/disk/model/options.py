"""How features are detected: one record for Python and for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from disk.errors import DiskError
from disk.options import Options, check_at_least, option

KEYPOINTS = 4096  # most keypoints of an image by default


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much of an image is kept."""

    n: int | Literal["auto"] | None = "auto"
    """Keypoint budget of an image, the best by score; auto: 4096, all of them for mode rng; None: all."""
    max_size: int = 1600
    """Shrink images whose long side is longer, in pixels; 0: never."""


@dataclass(frozen=True, kw_only=True)
class DetectionOptions(Budget, Options):
    """Which features of an image are found."""

    height: int | None = None
    """In place of max-size: fit images into a box of this height and width, padded on the right and below; alone:
    resize to it."""
    width: int | None = None
    """Width of that box."""
    window: int = 5
    """Side of the non-maximum suppression window, odd, in pixels."""
    subpixel: bool = True
    """Keypoints at the peaks of the heatmap between pixels; without, whole pixels as in the original."""
    mode: Literal["nms", "rng"] = "nms"
    """nms: the best local maxima; rng: drawn at random as in training, the same ones on every run."""

    @property
    def budget(self) -> int | None:
        """The most keypoints of an image, None for all."""
        if self.n == "auto":
            return KEYPOINTS if self.mode == "nms" else None
        return self.n

    def check(self) -> None:
        """Raise DiskError for a value that cannot be used."""
        if self.n != "auto":
            check_at_least(self, n=1)
        check_at_least(self, height=1, width=1, max_size=0, window=1)
        if self.window % 2 == 0:
            raise DiskError(f"{option('window', self.window)}: must be odd")
        if self.mode not in ("nms", "rng"):
            raise DiskError(f"{option('mode', self.mode)}: must be nms or rng")
