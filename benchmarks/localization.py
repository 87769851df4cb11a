"""How well photos are localized: every third image is left out of the model and then found by it.

    python benchmarks/localization.py data/fountain data/entry --work /tmp/localization

Each folder holds images/ and pairs_with_gt.txt (name0 name1 rot0 rot1 K0 K1 T_0to1, metric). The relative poses are
chained to absolute ones; the model is aligned with them by the positions of its own images, so that errors of mapping
count as well. The scene's size is the largest distance between two of its cameras.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

from disk.geometry.pose import align_similarity, rotation_error
from disk.pipeline.localize import LocalizeOptions, localize
from disk.pipeline.reconstruct import ReconstructOptions, reconstruct

POSITION, ROTATION = 0.005, 0.5  # of the scene's size; degrees


def true_poses(path: Path) -> dict[str, np.ndarray]:
    """cam_from_world (4, 4) of each image, the first camera being the world."""
    relative = {}
    for line in path.read_text().splitlines():
        words = line.split()
        T = np.array(words[-16:], float).reshape(4, 4)
        relative[words[0], words[1]], relative[words[1], words[0]] = T, np.linalg.inv(T)
    poses = {min(name for pair in relative for name in pair): np.eye(4)}
    while True:
        new = {b: T @ poses[a] for (a, b), T in relative.items() if a in poses and b not in poses}
        if not new:
            return poses
        poses |= new


def measure(scene: Path, fold: int, work: Path, camera: str) -> list[tuple[str, float, float, float, float, int]]:
    """name, position error over the scene's size, rotation error, their standard deviations, inliers of each photo."""
    import pycolmap

    truth = true_poses(scene / "pairs_with_gt.txt")
    centres = {name: -T[:3, :3].T @ T[:3, 3] for name, T in truth.items()}
    size = max(float(np.linalg.norm(a - b)) for a in centres.values() for b in centres.values())
    files = sorted(path for path in (scene / "images").iterdir() if path.name in truth)
    for number, path in enumerate(files):
        target = work / ("queries" if number % 3 == fold else "mapped") / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    reconstruct(work / "mapped", work / "model", ReconstructOptions(single_camera=True))
    out = work / f"located-{camera}"
    options = LocalizeOptions(camera=camera)  # type: ignore[arg-type]
    result = localize(work / "model", work / "queries", out, options)
    model = pycolmap.Reconstruction(work / "model" / "sparse" / "0")
    mapped = {model.image(i).name: model.image(i).projection_center() for i in model.reg_image_ids()}
    scale, R, t = align_similarity(np.array(list(mapped.values())), np.array([centres[name] for name in mapped]))
    rows = []
    for name, photo in result.photos.items():
        if not photo.found:
            rows.append((name, np.inf, np.inf, np.nan, np.nan, photo.inliers))
            continue
        position = float(np.linalg.norm(scale * R @ np.array(photo.centre) + t - centres[name])) / size
        w, x, y, z = photo.rotation
        own = pycolmap.Rotation3d(np.array([x, y, z, w])).matrix() @ R.T
        sigmas = scale * photo.position_sigma / size, photo.rotation_sigma
        rows.append((name, position, rotation_error(own, truth[name][:3, :3]), *sigmas, photo.inliers))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="+", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    for scene in arguments.scenes:
        for camera in ("model", "auto", "unknown"):
            rows = []
            for fold in range(3):
                rows += measure(scene, fold, arguments.work / f"{scene.name}-{fold}", camera)
            for row in rows:
                print(scene.name, camera, row[0], *(f"{value:.5f}" for value in row[1:5]), row[5])
            good = np.mean([position <= POSITION and rotation <= ROTATION for _, position, rotation, *_ in rows])
            middle = [float(np.median([row[column] for row in rows])) for column in (1, 2)]
            print(f"| {scene.name} | {camera} | {len(rows)} | {good:.0%} | {middle[0]:.2%} | {middle[1]:.3f} |")


if __name__ == "__main__":
    main()
