"""The coarse part of the network in onnxruntime, for inference on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from disk.model.disk import DISK
from disk.model.onnx.runtime import import_onnxruntime, session_options

# The graph of `unet.coarse`, whose initialisers have the names of the state dict and no values. Exporting it takes
# seconds, filling it milliseconds. `python -m disk.model.onnx.export` rewrites it after a change of the network's code.
GRAPH = Path(__file__).parents[2] / "weights" / "coarse.onnx"
NAMES = ("unet.path_down.", "unet.path_up.0.")  # prefixes of the names of its initialisers


def coarse_session(model: DISK, threads: int) -> Any:
    """An onnxruntime session for `model.unet.coarse`: {"images"} -> its four maps; float32 on the CPU.

    It copies the weights: later changes of `model` have no effect on the session.

    Raises MissingExtraError without onnxruntime.
    """
    ort = import_onnxruntime()
    state = {k: v for k, v in model.state_dict().items() if k.startswith(NAMES)}
    values = [ort.OrtValue.ortvalue_from_numpy(v.detach().cpu().float().contiguous().numpy()) for v in state.values()]
    options = session_options(threads)
    options.add_external_initializers(list(state), values)
    return ort.InferenceSession(GRAPH.read_bytes(), options, providers=["CPUExecutionProvider"])
