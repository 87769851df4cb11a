"""The network as ONNX: its coarse part for inference on a CPU, the whole detector for other programs."""

from disk.model.onnx.coarse import coarse_session

__all__ = ["coarse_session"]
