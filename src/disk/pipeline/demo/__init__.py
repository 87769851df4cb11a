"""The whole pipeline on photographs with ground truth, offline: a stereo pair, and a scene of twelve views."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from disk.errors import ArtifactError
from disk.options import Options, check_at_least, option
from disk.pipeline.demo.model import SceneResult, run_scene
from disk.pipeline.demo.page import write_page
from disk.pipeline.demo.photos import photo_folder
from disk.pipeline.demo.stereo import StereoResult, run_stereo
from disk.pipeline.reconstruct import ReconstructOptions
from disk.progress import log

MARK = ".disk-demo"  # marks an output folder that a new run may clear
PARTS = ("stereo", "scene", "report.html")


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """The options of the demo."""

    output: Path = Path("disk-demo")
    """Folder for the results; an earlier demo is replaced."""
    model_path: str = "default"
    """Weights: default, depth, epipolar, or a .pth or .safetensors file."""
    n: int = 2048
    """Keypoint budget of an image."""
    device: str = "auto"
    """Device: cpu, cuda, cuda:1, mps; auto: a GPU if there is one."""
    views: int = 12
    """Number of views of the rendered scene."""
    width: int = 800
    """Width of a view in pixels; the height is three quarters of it."""


@dataclass(frozen=True)
class DemoResult:
    """The results of both halves of the demo, the report, and the duration in seconds."""

    stereo: StereoResult
    scene: SceneResult
    report: Path
    seconds: float


def demo(options: DemoOptions = DemoOptions()) -> DemoResult:
    """Run both halves and write the report.

    Raises ArtifactError if the output folder contains something else, and the errors of loading the weights or a
    missing scikit-image, before an earlier demo is deleted.
    """
    from disk.model.checkpoints import load

    start = perf_counter()
    out = options.output
    check_at_least(options, views=2, width=64, n=1)
    model = load(options.model_path, options.device)
    photo_folder()
    _prepare(out)
    log.info("a stereo pair with measured disparities")
    stereo = run_stereo(model, out / "stereo", options.n)
    log.info("a scene of %d views with known cameras", options.views)
    choices = ReconstructOptions(n=options.n, model_path=options.model_path, device=options.device, single_camera=True)
    size = (options.width, options.width * 3 // 4)
    scene = run_scene(out / "scene", options.views, size, choices)
    seconds = perf_counter() - start
    report = write_page(out / "report.html", options.model_path, stereo, scene, seconds)
    return DemoResult(stereo, scene, report, seconds)


def _prepare(out: Path) -> None:
    """Create the folder, or delete an earlier demo in it."""
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).exists():
        raise ArtifactError(f"{out} contains files that are not a demo; choose another folder with {option('output')}")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()
    for part in PARTS:
        path = out / part
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
