"""Draws the model card's matches, good and bad cases, prints their counts, and takes a picture of a model's page.

python docs/make_pictures.py; the page needs Chromium.
"""

import math
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import disk
from disk.pipeline.demo import DemoOptions, demo
from disk.pipeline.demo.photos import load_photo
from disk.pipeline.demo.stereo import TOLERANCE, disparity_errors, draw_checked, load_disparity

PICTURES = Path(__file__).with_name("images")
CASES = {"demo-matches": (0.0, 1.0), "matches-bad": (60.0, 0.6)}


def turn(image: np.ndarray, degrees: float, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """The image turned about its centre and shrunk, and the map of its pixels, (2, 3)."""
    angle = math.radians(degrees)
    linear = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    size = np.array(image.shape[1::-1])
    new_size = np.ceil(np.abs(linear) @ size).astype(int)
    there = np.column_stack([linear, (new_size - 1) / 2 - linear @ ((size - 1) / 2)])
    # Pillow wants the way back, for corners of pixels
    back = np.linalg.inv(linear)
    offset = back @ (-0.5 - there[:, 2]) + 0.5
    coefficients = [*back[0], offset[0], *back[1], offset[1]]
    turned = Image.fromarray(image).transform(
        tuple(new_size), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC
    )
    return np.asarray(turned), there


def picture_of_page(page: Path, picture: Path) -> None:
    """What Chromium shows of the beginning of a page."""
    flags = [
        "--headless",
        "--no-sandbox",
        "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader",
        "--hide-scrollbars",
    ]
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        where = ["--virtual-time-budget=20000", "--window-size=1200,1400", f"--screenshot={shot}", page.as_uri()]
        subprocess.run(["chromium", *flags, *where], check=True, capture_output=True)
        Image.open(shot).convert("RGB").save(picture, quality=85)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        demo(DemoOptions(output=Path(folder)))
        picture_of_page(Path(folder) / "scene" / "model" / "report.html", PICTURES / "report.jpg")
    model = disk.load()
    left, right = load_photo("motorcycle_left.png"), load_photo("motorcycle_right.png")
    for name, (degrees, scale) in {**CASES, "15 degrees, not drawn": (15.0, 0.9)}.items():
        other, there = turn(right, degrees, scale)
        first, second = (model.detect(image, n=2048, subpixel=True) for image in (left, other))
        found = disk.match(first, second, ratio=None).indices.numpy()
        p0, p1 = first.keypoints.numpy()[found[:, 0]], second.keypoints.numpy()[found[:, 1]]
        upright = (p1 - there[:, 2]) @ np.linalg.inv(there[:, :2]).T
        errors = disparity_errors(p0, upright, load_disparity())
        right_ones, known = (errors <= TOLERANCE).sum(), np.isfinite(errors).sum()
        print(f"{name}: {right_ones} of {known} matches within {TOLERANCE:g} px")
        if name in CASES:
            names = ("motorcycle, left", f"right, turned by {degrees:g}°, {scale:g}x" if degrees else "right")
            draw_checked((left, other), (p0, p1), errors, names, PICTURES / f"{name}.jpg")


if __name__ == "__main__":
    main()
