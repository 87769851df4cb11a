"""Everything that talks to COLMAP; the only room that imports pycolmap."""

import signal
import threading

# Both bring their own zlib: when Pillow's is loaded second, saving a PNG crashes or hangs the process.
import PIL.Image  # noqa: F401

from disk.errors import require

require("pycolmap")
import pycolmap  # noqa: E402, F401

# pycolmap takes SIGTERM for a crash and prints the stack: whoever had it before gets it back
_handler = signal.getsignal(signal.SIGTERM)
if _handler is not None and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGTERM, _handler)
