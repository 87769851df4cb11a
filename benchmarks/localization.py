"""Accuracy of localization: every third image is held out of the model, then localized in it.

    python benchmarks/localization.py data/fountain data/entry --work /tmp/localization

Each folder contains images/ and pairs_with_gt.txt (name0 name1 rot0 rot1 K0 K1 T_0to1, metric). The relative poses are
chained to absolute ones. The model is aligned with them by the rotations and positions of the mapped images, so mapping
errors count as well. With --calibrated the model is mapped with the true camera, otherwise with an initial guess that
is refined; the principal point of the guess is the image centre. The size of a scene is the largest distance between
two of its cameras.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

from disk.geometry.pose import rotation_error
from disk.pipeline.localize import LocalizeOptions, localize
from disk.pipeline.reconstruct import ReconstructOptions, reconstruct

POSITION, ROTATION = 0.005, 0.5  # maximum errors: fraction of the scene's size, degrees


def true_poses(path: Path) -> dict[str, np.ndarray]:
    """cam_from_world (4, 4) of each image; the first camera is the world."""
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


def true_camera(path: Path) -> str:
    """fx, fy, cx, cy of all images; the principal point is relative to the corner of the first pixel."""
    K = np.array(path.read_text().split()[4:13], float).reshape(3, 3)
    return f"{K[0, 0]},{K[1, 1]},{K[0, 2] + 0.5},{K[1, 2] + 0.5}"


def align(mapped: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> tuple[float, np.ndarray, np.ndarray]:
    """The similarity (s, R, t) from the model to the ground truth; R is the mean over the rotations of the images."""
    U, _, Vt = np.linalg.svd(sum(truth[name][:3, :3].T @ pose[:3, :3] for name, pose in mapped.items()))
    R = U @ np.diag([1, 1, np.linalg.det(U @ Vt)]) @ Vt
    own = np.array([-pose[:3, :3].T @ pose[:3, 3] for pose in mapped.values()]) @ R.T
    true = np.array([-truth[name][:3, :3].T @ truth[name][:3, 3] for name in mapped])
    centred, wanted = own - own.mean(0), true - true.mean(0)
    scale = float((centred * wanted).sum() / (centred**2).sum())
    return scale, R, true.mean(0) - scale * own.mean(0)


def measure(
    scene: Path, fold: int, work: Path, camera: str, calibrated: bool
) -> list[tuple[str, float, float, float, float, int]]:
    """Name, position error over the scene's size, rotation error, their standard deviations and inliers per photo."""
    import pycolmap

    truth = true_poses(scene / "pairs_with_gt.txt")
    centres = {name: -T[:3, :3].T @ T[:3, 3] for name, T in truth.items()}
    size = max(float(np.linalg.norm(a - b)) for a in centres.values() for b in centres.values())
    files = sorted(path for path in (scene / "images").iterdir() if path.name in truth)
    for number, path in enumerate(files):
        target = work / ("queries" if number % 3 == fold else "mapped") / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    known = {"camera_model": "pinhole", "camera_params": true_camera(scene / "pairs_with_gt.txt")}
    chosen = {**known, "fix_intrinsics": True} if calibrated else {}
    reconstruct(work / "mapped", work / "model", ReconstructOptions(single_camera=True, **chosen))  # type: ignore[arg-type]
    out = work / f"located-{camera}"
    options = LocalizeOptions(camera=camera)  # type: ignore[arg-type]
    result = localize(work / "model", work / "queries", out, options)
    model = pycolmap.Reconstruction(work / "model" / "sparse" / "0")
    images = [model.image(number) for number in model.reg_image_ids()]
    scale, R, t = align({image.name: image.cam_from_world().matrix() for image in images}, truth)
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
    parser.add_argument("--calibrated", action="store_true")
    arguments = parser.parse_args()
    for scene in arguments.scenes:
        for camera in ("model", "auto", "unknown"):
            rows = []
            for fold in range(3):
                rows += measure(scene, fold, arguments.work / f"{scene.name}-{fold}", camera, arguments.calibrated)
            for row in rows:
                print(scene.name, camera, row[0], *(f"{value:.5f}" for value in row[1:5]), row[5])
            good = np.mean([position <= POSITION and rotation <= ROTATION for _, position, rotation, *_ in rows])
            middle = [float(np.median([row[column] for row in rows])) for column in (1, 2)]
            print(f"| {scene.name} | {camera} | {len(rows)} | {good:.0%} | {middle[0]:.2%} | {middle[1]:.3f} |")


if __name__ == "__main__":
    main()
