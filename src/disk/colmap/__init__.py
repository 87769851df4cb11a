"""Everything that talks to COLMAP; the only room that imports pycolmap."""

# Both bring their own zlib: when Pillow's is loaded second, saving a PNG crashes or hangs the process.
import PIL.Image  # noqa: F401

from disk.errors import require

require("pycolmap")
