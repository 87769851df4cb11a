"""Detection over a whole folder of JPEGs against the network alone on decoded images.

    python benchmarks/folder.py --images 100

Each round runs both, one after the other, on the same images; the result is the median over rounds of the ratio of
their rates. The time of the folder covers the whole stage: listing, loading the weights, decoding, the network, writing
and merging the files.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from PIL import Image

from disk.images.reading import read_image
from disk.images.resizing import to_tensor
from disk.model.checkpoints import load
from disk.model.disk import DISK
from disk.pipeline.detect import DetectOptions, detect


def write_photos(folder: Path, count: int, height: int, width: int) -> None:
    """Write JPEGs with detail at all scales, with file sizes like those of a camera."""
    rng = np.random.default_rng(0)
    for i in range(count):
        image = np.zeros((height, width, 3))
        for octave in range(6):
            coarse = rng.integers(0, 256, (height >> octave, width >> octave, 3), dtype=np.uint8)
            image += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)) / 6
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{i:04d}.jpg", quality=92)


def network_seconds(model: DISK, images: list[torch.Tensor], count: int, batch: int, n: int) -> float:
    """Time of the network alone over `count` images."""
    start = perf_counter()
    for first in range(0, count, batch):
        stack = torch.stack([images[i % len(images)] for i in range(first, min(count, first + batch))])
        model.detect(stack, n=n, max_size=0)
    return perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--height", type=int, default=768, help="a multiple of 16")
    parser.add_argument("--width", type=int, default=1024, help="a multiple of 16")
    parser.add_argument("--n", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    parser.add_argument("--batch-size", type=int, default=0)
    options = parser.parse_args()

    model = load("default", options.device, options.precision)
    batch = options.batch_size or model.images_at_once(options.height, options.width)
    settings = DetectOptions(
        n=options.n, device=options.device, precision=options.precision, batch_size=batch, max_size=0
    )
    with tempfile.TemporaryDirectory() as temporary:
        photos = Path(temporary, "photos")
        photos.mkdir()
        write_photos(photos, options.images, options.height, options.width)
        images = [to_tensor(read_image(path)) for path in sorted(photos.iterdir())[:8]]
        network_seconds(model, images, batch, batch, options.n)  # warm up
        ratios = []
        for i in range(options.rounds):
            alone = network_seconds(model, images, options.images, batch, options.n)
            start = perf_counter()
            detect(Path(temporary, f"artifacts{i}"), photos, settings)
            folder = perf_counter() - start
            ratios.append(alone / folder)
            print(
                f"round {i + 1}: network {options.images / alone:.3f} images/s, "
                f"folder {options.images / folder:.3f} images/s, {100 * ratios[-1]:.1f} %",
                flush=True,
            )
    print(f"median: the folder runs at {100 * statistics.median(ratios):.1f} % of the rate of the network alone")


if __name__ == "__main__":
    main()
