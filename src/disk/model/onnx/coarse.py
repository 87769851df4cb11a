"""The coarse part of the network in onnxruntime, for our own inference on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from disk.model.disk import DISK
from disk.model.onnx.runtime import import_onnxruntime, session_options

# The graph of `unet.coarse` with initialisers that are named as the state-dict and have no values. Exporting it takes
# seconds, filling it milliseconds. `python -m disk.model.onnx.export` makes it anew when the network's code changes.
GRAPH = Path(__file__).parents[2] / "weights" / "coarse.onnx"
NAMES = ("unet.path_down.", "unet.path_up.0.")  # how the names of its initialisers begin


def coarse_session(model: DISK, threads: int) -> Any:
    """An onnxruntime session for `model.unet.coarse`: {"images"} -> its four maps; float32 on the CPU.

    The weights are copied; a session knows nothing of what happens to `model` later. Raises MissingExtraError.
    """
    ort = import_onnxruntime()
    state = {k: v for k, v in model.state_dict().items() if k.startswith(NAMES)}
    values = [ort.OrtValue.ortvalue_from_numpy(v.detach().cpu().float().contiguous().numpy()) for v in state.values()]
    options = session_options(threads)
    options.add_external_initializers(list(state), values)
    return ort.InferenceSession(GRAPH.read_bytes(), options, providers=["CPUExecutionProvider"])
