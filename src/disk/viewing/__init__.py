"""Figures and the HTML report."""

from disk.errors import require

require("matplotlib")
