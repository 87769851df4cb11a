"""Readers of ground truth: pair lists with poses (SuperGlue's format), IMW scenes, HPatches sequences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from disk.errors import ArtifactError, EvaluationError, ImageError
from disk.images.listing import EXTENSIONS, list_images
from disk.images.reading import image_size
from disk.progress import counted
from disk.shapes import Float
from disk.storage.names import image_name, leads_out
from disk.storage.reading import read_datasets


@dataclass(frozen=True)
class View:
    """One image to extract features from.

    path: the image file.
    name: its key in a folder of artifacts: the path below the image folder without extension.
    turns: counter-clockwise quarter turns that make it upright before detection; 0: use EXIF.
    second: whether it is the second image of its pair, the one that --degrade changes.
    """

    path: Path
    name: str
    turns: int = 0
    second: bool = False


@dataclass(frozen=True)
class PosePair:
    """Two images with known cameras: x_cam1 = R @ x_cam0 + t, with K in pixels of the images as stored."""

    view0: View
    view1: View
    K0: Float[np.ndarray, "3 3"]
    K1: Float[np.ndarray, "3 3"]
    R: Float[np.ndarray, "3 3"]
    t: Float[np.ndarray, " 3"]


@dataclass(frozen=True)
class HomographyPair:
    """Two images of a plane: pixels of image 1 ~ H @ pixels of image 0.

    kind: i (illumination) or v (viewpoint).
    """

    view0: View
    view1: View
    H: Float[np.ndarray, "3 3"]
    kind: str


# columns of a line with ground truth: two names, two rotations, K0, K1, T_0to1
_COLUMNS = 2 + 2 + 9 + 9 + 16


def read_pose_pairs(file: Path, images: Path) -> list[PosePair]:
    """Read pairs from `name0 name1 rot0 rot1 K0 K1 T_0to1` lines, as for MegaDepth-1500, ScanNet-1500 and YFCC.

    Blank lines and lines that start with # are skipped.
    file: the text file.
    images: folder that the names in the file are relative to.

    Raises EvaluationError with the line number if a line has no ground truth, wrong columns, a missing image, a K of
    another image size or an invalid rotation.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise EvaluationError(f"{file}: no such file") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise EvaluationError(f"{file} is not a text file of pairs") from None
    if not images.is_dir():
        raise EvaluationError(f"{images}: no such image folder")
    sizes: dict[Path, tuple[int, int]] = {}
    pairs = [
        _pose_pair(line.split(), images, sizes, f"{file}:{number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not pairs:
        raise EvaluationError(f"{file} contains no pairs")
    return pairs


def _pose_pair(words: list[str], images: Path, sizes: dict[Path, tuple[int, int]], where: str) -> PosePair:
    if len(words) in (2, 4):
        raise EvaluationError(f"{where}: no ground truth, only names; every line also needs rot0 rot1 K0 K1 T_0to1")
    if len(words) != _COLUMNS:
        raise EvaluationError(
            f"{where}: {counted(len(words), 'column')} instead of {_COLUMNS}: name0 name1 rot0 rot1 K0(9) K1(9) "
            "T_0to1(16)"
        )
    try:
        numbers = np.array([float(word) for word in words[4:]])
    except ValueError as error:
        raise EvaluationError(f"{where}: {error}") from None
    if not np.isfinite(numbers).all():
        raise EvaluationError(f"{where}: a number is not finite")
    if not all(word in ("0", "1", "2", "3") for word in words[2:4]):
        raise EvaluationError(f"{where}: rot0 and rot1 must be quarter turns, 0 to 3, not {words[2]} {words[3]}")
    K0, K1, T = numbers[:9].reshape(3, 3), numbers[9:18].reshape(3, 3), numbers[18:].reshape(4, 4)
    views = []
    for side, (name, turns, K) in enumerate(zip(words[:2], words[2:4], (K0, K1), strict=True)):
        path = images / name
        if leads_out(name):
            raise EvaluationError(f"{where}: {name!r} is not below {images}")
        if path not in sizes:
            try:
                sizes[path] = image_size(path)
            except ImageError as error:
                raise EvaluationError(f"{where}: {error}") from None
        check_intrinsics(K, sizes[path], f"{where}: K{side}")
        views.append(View(path, image_name(name), int(turns), second=side == 1))
    if not np.allclose(T[3], [0, 0, 0, 1]):
        raise EvaluationError(f"{where}: the last row of T_0to1 is {T[3].tolist()}, not 0 0 0 1")
    check_rotation(T[:3, :3], f"{where}: T_0to1")
    return PosePair(views[0], views[1], K0, K1, T[:3, :3], T[:3, 3])


def check_intrinsics(K: Float[np.ndarray, "3 3"], size: tuple[int, int], where: str) -> None:
    """Raise EvaluationError unless K is a pinhole camera of an image of this (width, height)."""
    focal = np.diag(K)[:2]
    if not np.allclose(K[2], [0, 0, 1]) or (focal <= 0).any() or abs(K[1, 0]) > 1e-6:
        raise EvaluationError(f"{where} is not of the form fx 0 cx 0 fy cy 0 0 1")
    if abs(K[0, 1]) > 1e-3 * focal[0]:
        raise EvaluationError(f"{where} has a skew of {K[0, 1]:g}, which the estimators do not support")
    centre = K[:2, 2]
    # detects a K of an image that was resized by less than 0.7 or more than 1.4, and tolerates moderate cropping
    if (abs(centre / size - 0.5) > 0.2).any():
        raise EvaluationError(
            f"{where} has its principal point at ({centre[0]:.0f}, {centre[1]:.0f}), far from the centre of the "
            f"{size[0]} x {size[1]} image: it belongs to an image of another size"
        )


def check_rotation(R: Float[np.ndarray, "3 3"], where: str) -> None:
    """Raise EvaluationError unless R is a rotation, up to rounding."""
    off = float(np.abs(R @ R.T - np.eye(3)).max())
    if not off < 1e-3:
        raise EvaluationError(f"{where} is not a rotation: R R^T differs from the identity by {off:.2g}")
    if np.linalg.det(R) < 0:
        raise EvaluationError(f"{where} is a reflection, not a rotation")


def read_imw_scene(scene: Path, visibility: str = "0.1") -> list[PosePair]:
    """Read the pairs of a scene of the Image Matching Workshop benchmark.

    Reads images/, calibration/calibration_NAME.h5 (K, R, T) and new-vis-pairs/keys-th-VISIBILITY.npy (`A-B`).
    scene: the folder of the scene, or its `set_*` sub-folder.

    Raises EvaluationError if a file is missing or invalid.
    """
    folder = _imw_folder(scene)
    keys_file = folder / "new-vis-pairs" / f"keys-th-{visibility}.npy"
    if not keys_file.is_file():
        raise EvaluationError(f"{keys_file}: no such file; the folder is not an IMW scene, or lacks this visibility")
    try:
        keys = [str(key).encode().decode() for key in np.load(keys_file).ravel()]
    except Exception as error:  # numpy parses the header as Python, which may raise anything
        raise EvaluationError(f"{keys_file} cannot be read: {error}") from None
    files = {image.name: image.path for image in list_images(folder / "images")}
    cameras: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    pairs = []
    for key in keys:
        # names may contain '-' themselves, so try every one as separator
        splits = [(key[: m.start()], key[m.end() :]) for m in re.finditer("-", key)]
        known = [(a, b) for a, b in splits if a in files and b in files]
        if len(known) != 1:
            raise EvaluationError(f"{keys_file}: {key!r} does not name two images of {folder / 'images'}")
        for name in known[0]:
            if name not in cameras:
                cameras[name] = _imw_camera(folder, name, files[name])
        (name0, name1), (K0, R0, t0), (K1, R1, t1) = known[0], *(cameras[name] for name in known[0])
        R = R1 @ R0.T
        views = View(files[name0], name0), View(files[name1], name1, second=True)
        pairs.append(PosePair(*views, K0, K1, R, t1 - R @ t0))
    if not pairs:
        raise EvaluationError(f"{keys_file} contains no pairs")
    return pairs


def _imw_folder(scene: Path) -> Path:
    if (scene / "images").is_dir():
        return scene
    sets = sorted(path for path in scene.glob("set_*") if (path / "images").is_dir())
    if len(sets) != 1:
        found = "no" if not sets else "more than one"
        raise EvaluationError(f"{scene} has {found} set_*/images; give the folder with images/ and calibration/")
    return sets[0]


def _imw_camera(folder: Path, name: str, image: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    path = folder / "calibration" / f"calibration_{name}.h5"
    try:
        K, R, T = (part.astype(np.float64) for part in read_datasets(path, ("K", "R", "T")))
    except ArtifactError as error:
        raise EvaluationError(f"{error}") from None
    if K.size != 9 or R.size != 9 or T.size != 3:
        raise EvaluationError(f"{path}: K, R, T have shapes {K.shape}, {R.shape}, {T.shape}")
    K, R, T = K.reshape(3, 3), R.reshape(3, 3), T.ravel()
    check_intrinsics(K, image_size(image), f"{path}: K")
    check_rotation(R, f"{path}: R")
    return K, R, T


def read_homography_pairs(root: Path, without: tuple[str, ...] = ()) -> list[HomographyPair]:
    """Read the pairs (1, k) of all HPatches sequences in a folder: `i_*`, `v_*` with 1.ppm (or .png, ...) and H_1_k.

    without: names of sequences to skip.

    Raises EvaluationError if an image or homography is missing or a homography is invalid.
    """
    if not root.is_dir():
        raise EvaluationError(f"{root}: no such folder")
    sequences = [path for path in sorted(root.glob("[iv]_*")) if path.is_dir() and path.name not in without]
    if not sequences:
        raise EvaluationError(f"{root} contains no sequences (folders i_* or v_* with 1.ppm and H_1_2)")
    return [pair for sequence in sequences for pair in _sequence(sequence)]


def _sequence(folder: Path) -> Iterator[HomographyPair]:
    numbers = sorted(int(path.name[4:]) for path in folder.glob("H_1_*") if path.name[4:].isdecimal())
    if not numbers:
        raise EvaluationError(f"{folder} contains no homographies H_1_2, H_1_3, ...")
    images = {int(p.stem): p for p in folder.iterdir() if p.suffix.lower() in EXTENSIONS and p.stem.isdecimal()}
    for number in {1, *numbers}:
        if number not in images:
            raise EvaluationError(f"{folder} has homographies but no image {number} (.ppm, .png, ...)")
    for number in numbers:
        H = _read_homography(folder / f"H_1_{number}")
        view0, view1 = (View(images[k], f"{folder.name}/{k}", second=k != 1) for k in (1, number))
        yield HomographyPair(view0, view1, H, folder.name[0])


def _read_homography(path: Path) -> Float[np.ndarray, "3 3"]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            rows.append([float(word) for word in words])
        except ValueError as error:
            raise EvaluationError(f"{path}:{number}: {error}") from None
        if len(words) != 3:
            raise EvaluationError(f"{path}:{number}: {counted(len(words), 'number')} instead of 3")
    if len(rows) != 3:
        raise EvaluationError(f"{path}: {counted(len(rows), 'row')} instead of 3")
    H = np.array(rows)
    if not np.isfinite(H).all() or np.linalg.cond(H) > 1e14:
        raise EvaluationError(f"{path} is not a homography: it cannot be inverted")
    return H
