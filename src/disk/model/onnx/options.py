"""What an exported graph does: one record for Python and for the command line."""

from __future__ import annotations

from dataclasses import dataclass

from disk.errors import DiskError
from disk.model.options import KEYPOINTS
from disk.options import Options, check_at_least, option


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """What an exported detector does, written into the graph."""

    n: int | None = KEYPOINTS
    """The most keypoints of an image; None: all."""
    window: int = 5
    """Side of the non-maximum suppression window, odd, in pixels."""
    subpixel: bool = True
    """Keypoints at the peaks of the heatmap between pixels."""
    ratio: float | None = None
    """match: ratio test, as --rt of `disk match`; None: no test."""

    def check(self) -> None:
        """Raise DiskError for a value that cannot be used."""
        check_at_least(self, n=1, window=1)
        if self.window % 2 == 0:
            raise DiskError(f"{option('window', self.window)}: must be odd")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise DiskError(f"{option('ratio', self.ratio)}: must be above 0 and at most 1")
