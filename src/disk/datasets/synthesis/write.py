"""Writes rendered scenes to disk as a data set in the usual format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from disk.datasets.files import Calibration, write_calibration, write_depth
from disk.datasets.records import PosedImage
from disk.datasets.scenes import Scene, SceneSet, write_dataset_json
from disk.datasets.synthesis.sampler import SceneSampler
from disk.devices import choose_device
from disk.errors import DatasetError, DiskError
from disk.options import AnyPath, Options, check_at_least
from disk.progress import counted, log, track

_QUALITY = 95  # JPEG quality; the original reads no other file type


@dataclass(frozen=True, kw_only=True)
class SynthesizeOptions(Options):
    """Options of `disk dataset synthesize`."""

    scenes: int = 100
    """Number of scenes to render; each is one tuple."""
    views: int = 3
    """Number of images per scene."""
    height: int = 768
    """Height of the images in pixels."""
    width: int = 768
    """Width of the images in pixels."""
    seed: int = 0
    """Random seed; the same seed and photos give the same scenes."""
    device: str = "auto"
    """Where to render: cpu, cuda, cuda:1, mps; auto: a GPU if there is one."""


def synthesize(photos: AnyPath, out: AnyPath, options: SynthesizeOptions = SynthesizeOptions()) -> SceneSet:
    """Render scenes textured with the photos in a folder, and write them with exact poses and depth.

    Writes OUT/images, OUT/calibration, OUT/depth (float32, 0 where unknown) and, last, OUT/dataset.json.

    Raises DatasetError if options or photos cannot be used, or if OUT already contains a data set.
    """
    try:
        check_at_least(options, scenes=1, views=2, height=32, width=32, seed=0)
    except DiskError as error:
        raise DatasetError(str(error)) from None
    photos, out = Path(photos), Path(out)
    target = out / "dataset.json"
    if target.exists():
        raise DatasetError(f"{target} already exists; delete it or write to another folder")
    device = choose_device(options.device)
    sampler = SceneSampler(photos, options.height, options.width, options.views, device, options.seed)
    scenes = []
    for number in track(range(options.scenes), "scenes", "scene"):
        name = f"scene-{number:06d}"
        (out / "images" / name).mkdir(parents=True, exist_ok=True)
        files = [_write(out, name, f"{view}.jpg", image) for view, image in enumerate(sampler.tuples([number])[0])]
        images, calibration, depth = (out / part / name for part in ("images", "calibration", "depth"))
        scenes.append(Scene(name, images, calibration, depth, files, np.arange(options.views)[None]))
    write_dataset_json(target, scenes, relative=True)
    log.info("%s: %s of %d images", target, counted(options.scenes, "scene"), options.views)
    return SceneSet(target, scenes)


def _write(out: Path, scene: str, name: str, view: PosedImage) -> str:
    """Write one image with its calibration and depth; returns its file name."""
    pixels = (view.image * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    Image.fromarray(pixels).save(out / "images" / scene / name, quality=_QUALITY, subsampling=0)
    K, R, t = (part.double().cpu().numpy() for part in (view.camera.K, view.camera.R, view.camera.t))
    write_calibration(out / "calibration" / scene, name, Calibration(K, R, t))
    assert view.depth is not None  # rendered
    write_depth(out / "depth" / scene, name, view.depth.cpu().numpy())
    return name
