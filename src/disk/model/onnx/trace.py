"""From a torch module to an ONNX file that documents itself."""

from __future__ import annotations

import copy
import io
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from disk.errors import require
from disk.shapes import Tensor
from disk.storage.new_file import write_bytes

_OPSET = 18


def write(model: Any, path: Path, described: Mapping[str, str], options: Mapping[str, Any]) -> None:
    """Save an ONNX model, with descriptions as doc strings of inputs and outputs and, with the options, as metadata.

    described: for each input and output, `type (shape): meaning`
    options: the options of the export
    """
    for value in [*model.graph.input, *model.graph.output]:
        value.doc_string = described[value.name]
        sizes = value.type.tensor_type.shape.dim
        for size, name in zip(sizes, _shape(described[value.name]), strict=True):
            if size.dim_param:
                size.dim_param = name
    about = {"about": "DISK local features (arXiv 2006.13566)", **described, **{k: str(v) for k, v in options.items()}}
    for key, text in about.items():
        model.metadata_props.add(key=key, value=text)
    write_bytes(path, model.SerializeToString())


def _shape(description: str) -> list[str]:
    """The names of the dimensions, from the first parentheses of a description."""
    found = re.search(r"\((.*?)\)", description)
    assert found is not None, description
    return found[1].split(", ")


def trace(
    module: nn.Module,
    examples: tuple[Tensor, ...],
    shapes: tuple[dict[int, Any], ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    optimize: bool,
) -> Any:
    """Export a module to an ONNX model in float32, without paths of the machine that made it.

    shapes: the dynamic dimensions of each input
    inputs, outputs: their names
    optimize: whether to simplify the graph

    Raises MissingExtraError without onnx and onnxscript.
    """
    require("onnx", "onnxscript")
    import onnx

    buffer = io.BytesIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            copy.deepcopy(module).cpu().float().eval(),
            examples,
            buffer,  # type: ignore[arg-type]  # any file object works
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            opset_version=_OPSET,
            dynamo=True,
            optimize=optimize,
            external_data=False,
            verbose=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    # delete paths of source files and stack traces
    for value in [*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer]:
        del value.metadata_props[:]
    del model.metadata_props[:], model.graph.value_info[:]
    return model
