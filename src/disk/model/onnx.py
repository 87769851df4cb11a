"""The network as ONNX: its coarse part for our own inference on a CPU, the whole for other programs."""

from __future__ import annotations

import io
import logging
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from disk.model.disk import DISK, STRIDE
from disk.shapes import Tensor

# The exported graph of the coarse part without its weights, which `coarse_session` fills in: exporting takes seconds,
# filling milliseconds. `python -m disk.model.onnx` makes it anew when the network's code changes.
_GRAPH = Path(__file__).parent.parent / "weights" / "coarse.onnx"
_OPSET = 18


class _Coarse(nn.Module):
    def __init__(self, model: DISK) -> None:
        super().__init__()
        self.unet = model.unet

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.unet.coarse(images)


def export(model: DISK, path: Path) -> None:
    """Write images (B, 3, H, W) -> heatmap (B, 1, H, W), raw descriptors (B, D, H, W); H and W multiples of 16."""
    path.write_bytes(_export(model, ["heatmap", "descriptors"], optimize=True))


def export_coarse_graph() -> Any:
    """`unet.coarse` of any DISK network as an ONNX model; initialisers are named as the state-dict and empty."""
    import onnx

    # unoptimised, because optimising folds the weights into constants of other names
    graph = onnx.load_from_string(_export(_Coarse(DISK()), ["eighth", "quarter", "half", "full"], optimize=False))
    for initializer in graph.graph.initializer:
        initializer.ClearField("raw_data")
    for value in [*graph.graph.node, *graph.graph.input, *graph.graph.output, *graph.graph.initializer]:
        del value.metadata_props[:]
    del graph.graph.value_info[:]
    return graph


def coarse_session(model: DISK, threads: int) -> Any:
    """An onnxruntime session for `model.unet.coarse`: {"images"} -> its four maps; float32 on the CPU."""
    import onnxruntime

    graph = _coarse_graph()
    state = model.state_dict()
    for initializer in graph.graph.initializer:
        initializer.raw_data = state[initializer.name].detach().cpu().float().contiguous().numpy().tobytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Its memory pool saves a tenth of the time: fresh memory comes in pages that the system has to clear. Planning the
    # pool by the shape of the images would fill it with another block for each shape.
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


@lru_cache(maxsize=1)
def _coarse_graph() -> Any:
    import onnx

    return onnx.load(_GRAPH)


def _export(module: nn.Module, outputs: list[str], optimize: bool) -> bytes:
    batch, rows, columns = (torch.export.Dim(name, min=1) for name in ("batch", "rows", "columns"))
    shape = {0: batch, 2: STRIDE * rows, 3: STRIDE * columns}
    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(2, 3, 4 * STRIDE, 6 * STRIDE),),
            buffer,  # type: ignore[arg-type]  # any file object will do
            input_names=["images"],
            output_names=outputs,
            dynamic_shapes=(shape,),
            opset_version=_OPSET,
            dynamo=True,
            optimize=optimize,
            external_data=False,
            verbose=False,
        )
    return buffer.getvalue()


if __name__ == "__main__":
    _GRAPH.write_bytes(export_coarse_graph().SerializeToString())
