"""onnxruntime without telemetry; nothing else imports it."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

from disk.errors import require


def import_onnxruntime() -> ModuleType:
    """Import onnxruntime without its telemetry, unless the user has set ORT_DISABLE_TELEMETRY.

    With telemetry, the library writes a device id to ~/.cache/Microsoft and looks up a host. It reads the variable on
    import, so all imports must go through this function.

    Raises MissingExtraError without onnxruntime.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    require("onnxruntime")
    import onnxruntime

    return onnxruntime


def session_options(threads: int) -> Any:
    """Session options for a network on a CPU and images of many shapes; `threads` 0: one thread per core."""
    options = import_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # The memory pool saves a tenth of the time, because the system would have to clear the pages of new memory. With a
    # plan by image shape, the pool would grow by a block for each shape.
    options.enable_mem_pattern = False
    return options
