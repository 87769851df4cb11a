"""Detection on the CPU: ours against kornia's and OpenCV's DISK, exported graphs and our dense formulation.

    python benchmarks/detection.py [--rounds 7] [--precision bf16] [--height 768 --width 1024] [--n 2048]

All methods use the same weights and the same photo, and are timed in one process. Each round runs every method once and
takes ratios within the round, so that drifts of the machine's speed cancel out. With one thread (OMP_NUM_THREADS=1),
times are CPU time, which other processes affect less. Peak memory is measured in a separate process per method, above
the memory for libraries and the network.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image
from torch.nn import functional as F

import disk
from disk.model.detection import nms
from disk.model.onnx import export
from disk.model.onnx.options import ExportOptions
from disk.model.onnx.runtime import import_onnxruntime, session_options

# "onnx": one graph from image to features; "onnx, dense": the network alone, with suppression by torch
METHODS = ("ours", "ours, torch", "onnx", "onnx, dense", "opencv", "dense", "kornia")


def photograph(height: int, width: int) -> torch.Tensor:
    """A photo that ships with scikit-image, (1, 3, H, W) in [0, 1]."""
    from skimage.data import stereo_motorcycle

    image = Image.fromarray(stereo_motorcycle()[0]).resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def detector(method: str, n: int, precision: Any) -> Callable[[torch.Tensor], Any]:
    """Create a function that maps images to features."""
    # onnxruntime has no lower precision on the CPU, so `auto` uses torch there
    model = disk.load("default", "cpu", precision, "torch" if method.endswith("torch") else "auto")
    if method.startswith("ours"):
        return lambda images: model.detect(images, n=n, max_size=0)
    if method == "kornia":
        from kornia.feature import DISK

        theirs = DISK()
        theirs.load_state_dict(model.state_dict())
        theirs.eval()
        return torch.inference_mode()(lambda images: theirs(images, n))

    if method == "opencv":
        return opencv(model, n)
    if method == "onnx":
        run = exported("detector", model, n)
        return lambda images: run((images * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy())

    network = model if method == "dense" else exported("dense", model, n)

    @torch.inference_mode()
    def dense(images: torch.Tensor) -> Any:
        heatmap, raw = network(images)
        points, scores = nms(heatmap[0, 0], n=n)
        return points, scores, F.normalize(raw[0, :, points[:, 1], points[:, 0]].T, dim=1)

    return dense


def exported(kind: str, model: disk.DISK, n: int) -> Callable[[Any], list[torch.Tensor]]:
    """Create a function that runs an exported graph in onnxruntime."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "disk.onnx"
        if kind == "dense":
            export.export_dense(model, path)
        else:
            export.export_detector(model, path, ExportOptions(n=n))
        session = import_onnxruntime().InferenceSession(path, session_options(torch.get_num_threads()))
    return lambda images: [torch.from_numpy(m) for m in session.run(None, {"images": np.asarray(images)})]


def opencv(model: disk.DISK, n: int) -> Callable[[torch.Tensor], Any]:
    """Create a function that runs `cv2.DISK` of OpenCV 5 with the same weights; sizes must be multiples of 16."""
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "disk.onnx"
        export.export_for_opencv(model, path, ExportOptions(n=n))
        theirs = cv2.DISK.create(str(path), maxKeypoints=n, scoreThreshold=0.0)
    cv2.setNumThreads(torch.get_num_threads())

    def run(images: torch.Tensor) -> Any:
        theirs.setImageSize((images.shape[3], images.shape[2]))
        pixels = (images[0] * 255).round().byte().permute(1, 2, 0).flip(2).contiguous().numpy()
        return theirs.detectAndCompute(pixels, None)

    return run


def peak_memory(method: str, n: int, precision: str, height: int, width: int) -> float:
    """Peak memory of detection in MiB, above the loaded network, measured in a separate process."""
    code = (
        f"import sys; sys.path.insert(0, {__file__.rsplit('/', 1)[0]!r}); import detection as d;"
        f"print(d._peak({method!r}, {n}, {precision!r}, {height}, {width}))"
    )
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def _peak(method: str, n: int, precision: str, height: int, width: int) -> float:
    run, small = detector(method, n, precision), photograph(64, 64)
    image = photograph(height, width)
    run(small)  # triggers all lazy loading
    before = _high_water()
    for _ in range(2):
        run(image)
    return _high_water() - before


def _high_water() -> float:
    """Peak memory of this process in MiB. getrusage would include what its parent held when it was started."""
    with open("/proc/self/status") as status:
        return next(float(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))


def main(rounds: int = 7, precision: str = "fp32", height: int = 768, width: int = 1024, n: int = 2048) -> None:
    """Compare time and memory of detection."""
    image = photograph(height, width)
    methods = METHODS if precision == "fp32" else ("ours", "dense", "kornia")
    runs = {m: detector(m, n, precision) for m in methods}
    times: dict[str, list[float]] = {m: [] for m in methods}
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for i in range(rounds + 1):
        for method, run in runs.items():
            start = clock()
            run(image)
            if i:  # the first round warms up
                times[method].append(clock() - start)
    memory = {m: peak_memory(m, n, precision, height, width) for m in methods}

    print(
        f"{width}x{height}, n = {n}, {precision}, {torch.get_num_threads()} threads, {rounds} rounds, {clock.__name__}"
    )
    print(f"{'method':<12} {'seconds':>8} {'kornia / it':>12} {'peak MiB':>9} {'of kornia':>10}")
    for method in methods:
        ratio = median(k / t for k, t in zip(times["kornia"], times[method], strict=True))
        share = memory[method] / memory["kornia"]
        print(f"{method:<12} {median(times[method]):8.3f} {ratio:12.2f} {memory[method]:9.0f} {share:10.2f}")


if __name__ == "__main__":
    tyro.cli(main)
