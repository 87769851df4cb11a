"""onnxruntime, imported in the one way that keeps it quiet."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

from disk.errors import require


def import_onnxruntime() -> ModuleType:
    """onnxruntime without its telemetry, unless ORT_DISABLE_TELEMETRY is set to the user's own value.

    With it, the library writes a device id below ~/.cache/Microsoft and looks up a host. It reads the variable when it
    is imported, so nothing else here imports it. Raises MissingExtraError.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    require("onnxruntime")
    import onnxruntime

    return onnxruntime


def session_options(threads: int) -> Any:
    """Options for a network on a CPU that sees images of many shapes; `threads` 0: one for each core."""
    options = import_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Its memory pool saves a tenth of the time: fresh memory comes in pages that the system has to clear. Planning the
    # pool by the shape of the images would fill it with another block for each shape.
    options.enable_mem_pattern = False
    return options
