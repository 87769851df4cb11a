"""Writing ONNX files: whole detectors and matchers for programs without Python or torch, and for OpenCV."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from disk.errors import DiskError
from disk.model.disk import DISK
from disk.model.onnx.coarse import GRAPH, NAMES
from disk.model.onnx.detector import Detected, Detector
from disk.model.onnx.options import ExportOptions
from disk.model.onnx.pair import pair_graph
from disk.model.onnx.trace import trace, write
from disk.model.unet import STRIDE
from disk.shapes import Float, Tensor

_DYNAMIC = torch.export.Dim.DYNAMIC


def export_detector(model: DISK, path: Path, options: ExportOptions = ExportOptions()) -> None:
    """Write the graph from images (B, H, W, 3) uint8 RGB to keypoints (B, N, 2), scores (B, N), descriptors (B, N, D).

    The images may have any size.
    """
    described = {
        "images": "uint8 (batch, height, width, 3): RGB; any size, the same for the whole batch",
        "keypoints": "float32 (batch, n, 2): x right, y down, in pixels; (0, 0) is the centre of the first pixel",
        "scores": "float32 (batch, n): heatmap logits, best first; 0 marks padding, which is not a keypoint",
        "descriptors": f"float32 (batch, n, {model.desc_dim}): unit length; compare by dot product or distance",
    }
    write(detector_graph(model, options), path, described, _detection(options))


def export_pair(model: DISK, path: Path, options: ExportOptions = ExportOptions()) -> None:
    """Write the graph from two images (1, H, W, 3) uint8 RGB to keypoints of both, matches (K, 2) and distances (K,).

    The images may have any size, also different ones.
    """
    write_pair(detector_graph(model, options), path, options)


def write_pair(detector: Any, path: Path, options: ExportOptions) -> None:
    """Do what `export_pair` does, from the ONNX model of its detector."""
    described = {
        "first_images": "uint8 (1, height0, width0, 3): RGB, any size",
        "second_images": "uint8 (1, height1, width1, 3): RGB, any size",
        "first_keypoints": "float32 (1, n, 2): x right, y down, in pixels; (0, 0) is the centre of the first pixel",
        "second_keypoints": "float32 (1, m, 2): of the second image",
        "matches": "int64 (k, 2): rows of the first and the second keypoints that match, mutual nearest neighbours",
        "distances": "float32 (k): distance between the two descriptors, 0 to 2",
    }
    write(pair_graph(detector, options.ratio), path, described, {**_detection(options), "ratio": options.ratio})


def detector_graph(model: DISK, options: ExportOptions) -> Any:
    """The ONNX model that `export_detector` writes."""
    images = torch.zeros(2, 70, 90, 3, dtype=torch.uint8)
    shape = {0: _DYNAMIC, 1: _DYNAMIC, 2: _DYNAMIC}
    outputs = ["keypoints", "scores", "descriptors"]
    return trace(_detector(model, options), (images,), (shape,), ["images"], outputs, optimize=True)


class _ForOpenCV(nn.Module):
    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Float[Tensor, "1 3 h w"]) -> Detected:
        return self.detector.detect(image, image.shape[2], image.shape[3])


def export_for_opencv(model: DISK, path: Path, options: ExportOptions = ExportOptions()) -> None:
    """Write the graph that `cv2.DISK` of OpenCV 5 reads: image (1, 3, H, W) to int64 keypoints, scores, descriptors.

    OpenCV 5.0 reads only whole pixels.

    Raises DiskError unless descriptors have length 128, which OpenCV asserts.
    """
    if model.desc_dim != 128:
        raise DiskError(f"cv2.DISK needs descriptors of length 128, but these weights give {model.desc_dim}")
    described = {
        "image": "float32 (1, 3, height, width): RGB in 0..1; height and width multiples of 16",
        "keypoints": "int64 (1, n, 2): x right, y down, whole pixels",
        "scores": "float32 (1, n): heatmap logits, best first",
        "descriptors": "float32 (1, n, 128): unit length",
    }
    options = replace(options, subpixel=False)
    shape = {2: STRIDE * torch.export.Dim("rows", min=1), 3: STRIDE * torch.export.Dim("columns", min=1)}
    outputs = ["keypoints", "scores", "descriptors"]
    module = _ForOpenCV(_detector(model, options))
    graph = trace(module, (_padded_example()[:1],), (shape,), ["image"], outputs, optimize=True)
    write(graph, path, described, _detection(options))


def export_dense(model: DISK, path: Path) -> None:
    """Write the graph from images (B, 3, H, W) to heatmap (B, 1, H, W) and unnormalised descriptors (B, D, H, W).

    H and W must be multiples of 16.
    """
    described = {
        "images": "float32 (batch, 3, height, width): RGB in 0..1; height and width multiples of 16",
        "heatmap": "float32 (batch, 1, height, width): logits",
        "descriptors": f"float32 (batch, {model.desc_dim}, height, width): not normalised",
    }
    outputs = ["heatmap", "descriptors"]
    graph = trace(model, (_padded_example(),), (_padded_shape(),), ["images"], outputs, optimize=True)
    write(graph, path, described, {})


class _Coarse(nn.Module):
    def __init__(self, model: DISK) -> None:
        super().__init__()
        self.unet = model.unet

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.unet.coarse(images)


def export_coarse_graph() -> Any:
    """`unet.coarse` of any DISK network as an ONNX model; initialisers are external, with the state dict's names."""
    outputs = ["eighth", "quarter", "half", "full"]
    # do not optimise, because that folds the weights into constants with other names
    model = trace(_Coarse(DISK()), (_padded_example(),), (_padded_shape(),), ["images"], outputs, optimize=False)
    for initializer in model.graph.initializer:
        assert initializer.name.startswith(NAMES), initializer.name
        initializer.ClearField("raw_data")
        initializer.data_location = initializer.EXTERNAL
        initializer.external_data.add(key="location", value="state-dict")
    return model


def _detector(model: DISK, options: ExportOptions) -> Detector:
    options.check()
    return Detector(model, options.n, options.window, options.subpixel)


def _detection(options: ExportOptions) -> dict[str, Any]:
    return {"n": options.n, "window": options.window, "subpixel": options.subpixel}


def _padded_example() -> Tensor:
    return torch.zeros(2, 3, 4 * STRIDE, 6 * STRIDE)


def _padded_shape() -> dict[int, Any]:
    batch, rows, columns = (torch.export.Dim(name, min=1) for name in ("batch", "rows", "columns"))
    return {0: batch, 2: STRIDE * rows, 3: STRIDE * columns}


if __name__ == "__main__":
    GRAPH.write_bytes(export_coarse_graph().SerializeToString())
