"""CUDA graphs: a function that has run before on tensors of the same shapes is replayed with a single launch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch

from disk.progress import log
from disk.shapes import Tensor

Function = Callable[..., Tensor]

_MOST = 8  # graphs kept
_SHARE = 8  # all graphs together keep at most 1/8 of the GPU's memory


@dataclass(frozen=True)
class Recording:
    """A CUDA graph.

    replay: launches the graph
    inputs: the tensors that it reads
    output: the tensor that it writes
    size: bytes of GPU memory that it keeps
    """

    replay: Callable[[], None]
    inputs: Sequence[Tensor]
    output: Tensor
    size: int


class Graphs:
    """Runs functions of tensors: directly at first, then as graphs; keeps the most recently used graphs."""

    def __init__(self, device: torch.device, record: Callable[[Function, Sequence[Tensor]], Recording] | None = None):
        """record: makes a graph; default: `record_graph`."""
        self._record = record or record_graph
        self._bytes = torch.cuda.get_device_properties(device).total_memory // _SHARE
        self._seen: set[Hashable] = set()
        self._refused: set[Hashable] = set()
        self._kept: OrderedDict[Hashable, Recording] = OrderedDict()
        self._lock = threading.Lock()  # a graph has only one set of inputs
        self._device = device
        self._stream: torch.cuda.Stream | None = None  # of the last replay

    def run(self, key: Hashable, function: Function, *tensors: Tensor) -> Tensor:
        """Run the function on the tensors.

        key: identifies the function and the shapes and types of the tensors
        function: depends only on the tensors and on fixed weights, and never waits for the GPU
        """
        with self._lock:
            if key not in self._kept and (self._is_new(key) or not self._keep(key, function, tensors)):
                return function(*tensors)
            self._kept.move_to_end(key)
            recording = self._kept[key]
            self._wait_for_other_streams()
            for place, tensor in zip(recording.inputs, tensors, strict=True):
                place.copy_(tensor, non_blocking=True)
            recording.replay()
            # the next replay overwrites the output
            return recording.output.clone()

    def _wait_for_other_streams(self) -> None:
        """Queue the next replay behind the last one, which may still read and write the same memory."""
        stream = torch.cuda.current_stream(self._device)
        if self._stream is not None and stream != self._stream:
            stream.wait_stream(self._stream)
        self._stream = stream

    def clear(self) -> None:
        """Free the memory of all graphs."""
        self._kept.clear()

    def _is_new(self, key: Hashable) -> bool:
        new = key not in self._seen
        self._seen.add(key)
        return new

    def _keep(self, key: Hashable, function: Function, tensors: Sequence[Tensor]) -> bool:
        if key in self._refused:
            return False
        try:
            recording = self._record(function, tensors)
        except RuntimeError as error:
            if not self._refused:
                log.warning("running without CUDA graphs: %s", str(error).partition("\n")[0])
            self._refused.add(key)
            return False
        if recording.size > self._bytes:
            self._refused.add(key)
            return False
        self._kept[key] = recording
        while len(self._kept) > _MOST or sum(kept.size for kept in self._kept.values()) > self._bytes:
            self._kept.popitem(last=False)
        return True


def record_graph(function: Function, tensors: Sequence[Tensor]) -> Recording:
    """Record a graph of the function, which must have run before so that its kernels are compiled.

    Raises RuntimeError if it cannot be recorded.
    """
    device = tensors[0].device
    with torch.inference_mode(False):  # or a graph recorded in inference mode could not be replayed outside it
        inputs = [tensor.clone() for tensor in tensors]
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    graph = torch.cuda.CUDAGraph()
    # by default, torch records all graphs of a process on one stream, which belongs to the first one's device;
    # thread_local, because other threads may allocate pinned memory meanwhile
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        # the outer `stream` restores the current stream, which `graph` does not do after a failed capture
        with torch.cuda.stream(stream), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            output = function(*inputs)
    return Recording(graph.replay, inputs, output, torch.cuda.memory_reserved(device) - before)
