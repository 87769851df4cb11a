"""Options of an exported graph: one record for Python and the command line."""

from __future__ import annotations

from dataclasses import dataclass

from disk.errors import DiskError
from disk.model.options import KEYPOINTS
from disk.options import Options, check_at_least, option


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """Options of an exported detector, written into the graph."""

    n: int | None = KEYPOINTS
    """Maximum number of keypoints per image; None: all."""
    window: int = 5
    """Side of the non-maximum suppression window, in pixels; odd."""
    subpixel: bool = True
    """Refine keypoints to subpixel peaks of the heatmap; off: whole pixels."""
    ratio: float | None = None
    """Graph match: threshold of the ratio test, as --rt of `disk match`; None: no ratio test."""

    def check(self) -> None:
        """Raise DiskError for an invalid value."""
        check_at_least(self, n=1, window=1)
        if self.window % 2 == 0:
            raise DiskError(f"{option('window', self.window)}: must be odd")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise DiskError(f"{option('ratio', self.ratio)}: must be above 0 and at most 1")
