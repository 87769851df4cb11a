"""Everything that uses COLMAP; the only sub-package that imports pycolmap."""

import signal
import threading

# Both bundle a zlib: if Pillow's is loaded second, saving a PNG crashes or hangs the process.
import PIL.Image  # noqa: F401

from disk.errors import require

require("pycolmap")
import pycolmap  # noqa: E402, F401

# pycolmap treats SIGTERM as a crash and prints the stack, so restore the previous handler
_handler = signal.getsignal(signal.SIGTERM)
if _handler is not None and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGTERM, _handler)
