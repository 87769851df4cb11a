"""A synthetic output of `disk reconstruct`: cameras in rings around a coloured ball on a floor."""

from __future__ import annotations

import colorsys
import json
from dataclasses import asdict
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
import pycolmap
from PIL import Image, ImageDraw

from disk.colmap.models import describe
from disk.pipeline.summary import Reconstruction

WIDTH, HEIGHT, FOCAL = 160, 120, 150.0
SEEN = 60  # points per photo
RING = 50  # photos per ring
NEAR = 3  # number of following photos that each photo is linked with
WEAK = 20  # inliers of a weak link


def make_output(root: Path, names: list[str], missing: dict[str, str], points: int = 2000) -> tuple[Path, Path]:
    """Write photos and an output; return both folders. names: registered photos; missing: others, with the reason."""
    photos, out = root / "photos", root / "model"
    everything = [*names, *missing]
    for number, name in enumerate(everything):
        colour = tuple(int(255 * value) for value in colorsys.hsv_to_rgb(number / len(everything), 0.5, 0.8))
        image = Image.new("RGB", (WIDTH, HEIGHT), colour)
        ImageDraw.Draw(image).text((20, 50), f"photo {number}", "black")
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(photos / name)
    model = make_model(names, points)
    (out / "sparse" / "0").mkdir(parents=True)
    model.write(out / "sparse" / "0")
    _write_artifacts(out / "artifacts", sorted(names), sorted(missing))
    numbers = describe(model)
    summary = Reconstruction(
        images=len(everything),
        registered=len(names),
        points=numbers.points,
        track_length=numbers.track_length,
        reprojection_error=numbers.reprojection_error,
        unconnected=list(missing),
        models=[asdict(numbers)],
        seconds={"map": 1.0},
        reasons=missing,
        connected=NEAR * len(names),
        photos=str(photos),
    )
    (out / "summary.json").write_text(json.dumps(asdict(summary)))
    return photos, out


def make_model(names: list[str], points: int = 2000) -> pycolmap.Reconstruction:
    """A model with its world upside down, to test that it is shown upright: up is (0, 0, -1)."""
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(points // 2, 3))
    ball /= np.linalg.norm(ball, axis=1, keepdims=True)
    floor = np.column_stack([rng.uniform(-3, 3, (points - len(ball), 2)), np.full(points - len(ball), -1.0)])
    cloud = np.concatenate([ball, floor])
    colours = np.concatenate([(ball + 1) * 120, np.tile([150, 140, 120], (len(floor), 1))]).astype(np.uint8)
    flip = np.diag([1.0, -1, -1])
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(pycolmap.Camera.create_from_model_name(1, "SIMPLE_RADIAL", FOCAL, WIDTH, HEIGHT))
    seen_by: list[list[tuple[int, int]]] = [[] for _ in cloud]
    for number, name in enumerate(sorted(names), 1):
        R, t = _pose(number - 1)
        in_camera = cloud @ R.T + t
        pixels = FOCAL * in_camera[:, :2] / in_camera[:, 2:] + [WIDTH / 2, HEIGHT / 2]
        inside = (in_camera[:, 2] > 0.1) & (pixels > 0).all(1) & (pixels < [WIDTH, HEIGHT]).all(1)
        seen = rng.permutation(np.flatnonzero(inside))[:SEEN]
        for row, point in enumerate(seen.tolist()):
            seen_by[point].append((number, row))
        spots = pycolmap.Point2DList([pycolmap.Point2D(xy) for xy in pixels[seen]])
        image = pycolmap.Image(name=name, camera_id=1, image_id=number, points2D=spots)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pycolmap.Rotation3d(R @ flip), t))
    for xyz, colour, track_of in zip(cloud, colours, seen_by, strict=True):
        if len(track_of) > 1:
            track = pycolmap.Track()
            for number, row in track_of:
                track.add_element(number, row)
            model.add_point3D(flip @ xyz, track, colour)
    return model


def _pose(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A camera of a ring that looks at the ball, with its x axis level; z is up."""
    ring, place = divmod(number, RING)
    angle, height = 2 * np.pi * place / RING, 0.3 + 0.35 * ring
    centre = np.array([4 * np.cos(angle), 4 * np.sin(angle), height])
    forward = -centre / np.linalg.norm(centre)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    R = np.stack([right, np.cross(forward, right), forward])
    return R, -R @ centre


def _write_artifacts(artifacts: Path, names: list[str], missing: list[str]) -> None:
    """Each photo matches the next ones; the first also fails to match the missing ones; every 20th link is weak."""
    artifacts.mkdir()
    corners = np.random.default_rng(1).uniform(0, [WIDTH - 1, HEIGHT - 1], (400, 2)).astype(np.float32)
    with h5py.File(artifacts / "keypoints.h5", "w") as keypoints:
        for name in (*names, *missing):
            keypoints[_stem(name)] = corners
    pairs = {(min(name, names[0]), max(name, names[0])): 0 for name in missing}
    for first, name in enumerate(names):
        for apart, other in enumerate(names[first + 1 : first + 1 + NEAR]):
            pairs[name, other] = WEAK if first // 20 < (first + 1 + apart) // 20 else 300 - 60 * apart
    with h5py.File(artifacts / "matches.h5", "w") as found, h5py.File(artifacts / "inliers.h5", "w") as kept:
        for (name, other), inliers in pairs.items():
            key = "/".join(_stem(part).replace("/", "|") for part in (name, other))
            matches = np.tile(np.arange(max(inliers, 40)), (2, 1))
            found[key], kept[key] = matches, matches[:, :inliers]


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()
