"""Options of detection: one record for Python and the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from disk.errors import DiskError
from disk.options import Options, check_at_least, option

KEYPOINTS = 4096  # default keypoint budget


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Keypoint budget and image size."""

    n: int | Literal["auto"] | None = "auto"
    """Maximum number of keypoints per image, the best by score; auto: 4096; None: all."""
    max_size: int = 1600
    """Shrink images whose long side is longer than this, in pixels; 0: never."""


@dataclass(frozen=True, kw_only=True)
class DetectionOptions(Budget, Options):
    """How features are detected in an image."""

    height: int | None = None
    """Instead of --max-size: fit images into a box of this height and width, padded on the right and below; without
    width, resize to this height."""
    width: int | None = None
    """Width of that box; without height, resize to this width."""
    window: int = 5
    """Side of the non-maximum suppression window, in pixels; odd."""
    subpixel: bool = True
    """Refine keypoints to subpixel peaks of the heatmap; off: whole pixels, as in the original."""
    mode: Literal["nms", "rng"] = "nms"
    """nms: the best local maxima; rng: random samples as in training, all of them if n is auto, the same on every
    run."""

    @property
    def budget(self) -> int | None:
        """Maximum number of keypoints per image; None: all."""
        if self.n == "auto":
            return KEYPOINTS if self.mode == "nms" else None
        return self.n

    def check(self) -> None:
        """Raise DiskError for an invalid value."""
        if self.n != "auto":
            check_at_least(self, n=1)
        check_at_least(self, height=1, width=1, max_size=0, window=1)
        if self.window % 2 == 0:
            raise DiskError(f"{option('window', self.window)}: must be odd")
        if self.mode not in ("nms", "rng"):
            raise DiskError(f"{option('mode', self.mode)}: must be nms or rng")
