"""Workspaces of COLMAP: models written by pycolmap itself, images drawn where its cameras see the points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image

from disk.colmap.workspace import open_workspace, read_depth_map, undistort
from disk.errors import ColmapError

WIDTH, HEIGHT = 160, 120
PARAMS = {
    "PINHOLE": [150.0, 140.0, 83.0, 57.0],
    "SIMPLE_PINHOLE": [150.0, 83.0, 57.0],
    "SIMPLE_RADIAL": [150.0, 83.0, 57.0, -0.2],
    "OPENCV": [150.0, 140.0, 83.0, 57.0, -0.2, 0.05, 0.01, -0.005],
    "OPENCV_FISHEYE": [150.0, 150.0, 83.0, 57.0, 0.01, 0.0, 0.0, 0.0],
}
NAMES = ("a.png", "sub/b.c.png", "sub/d.png")
# well apart in every image, so that each has a bright spot of its own
POINTS = np.array([[-1.2, -0.7, 5.0], [1.1, -0.6, 5.5], [0.0, 0.1, 4.5], [-1.0, 0.8, 6.0], [1.3, 0.9, 5.0]])


def make_workspace(root: Path, model: str = "PINHOLE", folder: str = "sparse", binary: bool = True) -> Path:
    """Three cameras to the left and right of each other, the last without any point."""
    reconstruction = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model=model, width=WIDTH, height=HEIGHT, params=PARAMS[model], camera_id=1)
    reconstruction.add_camera_with_trivial_rig(camera)
    for index, name in enumerate(NAMES):
        turn = pycolmap.Rotation3d(np.array([0, np.sin(0.05 * index), 0, np.cos(0.05 * index)]))
        pose = pycolmap.Rigid3d(turn, np.array([-0.3 * index, 0.05 * index, 0.1]))
        pixels = [camera.img_from_cam(point) for point in pose * POINTS]
        image = pycolmap.Image(name=name, camera_id=1, image_id=index + 1, keypoints=np.array(pixels))
        reconstruction.add_image_with_trivial_frame(image, pose)
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(np.array(pixels) - 0.5)).save(path)
    for number, point in enumerate(POINTS):
        seen_by = range(1, 3) if number else range(1, 2)
        track = pycolmap.Track([pycolmap.TrackElement(image_id, number) for image_id in seen_by])
        reconstruction.add_point3D(point, track, np.zeros(3, dtype=np.uint8))
    (root / folder).mkdir(parents=True, exist_ok=True)
    (reconstruction.write_binary if binary else reconstruction.write_text)(root / folder)
    return root


def draw(pixels: np.ndarray) -> np.ndarray:
    """Bright spots at pixels; (0, 0) is the centre of the first."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    values = sum(np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 2.0**2)) for cx, cy in pixels)
    return np.repeat(np.uint8(255 * np.clip(values, 0, 1))[:, :, None], 3, axis=2)


def spot(image: np.ndarray, near: np.ndarray, radius: int = 7) -> np.ndarray:
    """Centre of the bright spot around a pixel."""
    x, y = near.round().astype(int)
    rows, columns = np.mgrid[y - radius : y + radius + 1, x - radius : x + radius + 1]
    weights = image[rows, columns, 0].astype(float)
    return np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()


@pytest.mark.parametrize(
    ("model", "binary", "folder"),
    [("PINHOLE", True, "sparse"), ("SIMPLE_PINHOLE", False, "sparse/0"), ("PINHOLE", False, ".")],
)
def test_reads_models(tmp_path: Path, model: str, binary: bool, folder: str) -> None:
    workspace = open_workspace(make_workspace(tmp_path, model, folder, binary))
    assert [image.name for image in workspace.images] == list(NAMES)
    assert workspace.distorted == []
    assert workspace.image_folder == tmp_path / "images"
    first, second, last = workspace.images
    assert (len(first.points), len(second.points), len(last.points)) == (5, 4, 0)
    assert set(second.points) < set(first.points)
    assert (first.width, first.height) == (WIDTH, HEIGHT)
    np.testing.assert_allclose(second.R.T @ second.R, np.eye(3), atol=1e-9)
    np.testing.assert_allclose(second.t, [-0.3, 0.05, 0.1])


def test_pixel_centres(tmp_path: Path) -> None:
    """K, R, t project a point onto the middle of its spot, the first pixel's centre being (0, 0)."""
    workspace = open_workspace(make_workspace(tmp_path))
    for image in workspace.images:
        _check_spots(workspace.image_folder, image, 0.01)


@pytest.mark.parametrize("model", ["SIMPLE_RADIAL", "OPENCV", "OPENCV_FISHEYE"])
def test_undistorts(tmp_path: Path, model: str) -> None:
    distorted = open_workspace(make_workspace(tmp_path / "in", model, "sparse/0"))
    assert distorted.distorted == [model]
    workspace = undistort(distorted, list(NAMES), tmp_path / "out")
    assert workspace.distorted == []
    assert [image.name for image in workspace.images] == list(NAMES)
    assert [len(image.points) for image in workspace.images] == [5, 4, 0]
    for image in workspace.images:
        assert Image.open(workspace.image_folder / image.name).size == (image.width, image.height)
        _check_spots(workspace.image_folder, image, 0.1)


def test_refuses_a_fisheye_camera_that_colmap_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARAMS, "OPENCV_FISHEYE", [150.0, 150.0, 83.0, 57.0, 0.0, 0.0, 0.0, 0.0])
    distorted = open_workspace(make_workspace(tmp_path / "in", "OPENCV_FISHEYE"))
    with pytest.raises(ColmapError, match="OPENCV_FISHEYE cameras as they are"):
        undistort(distorted, list(NAMES), tmp_path / "out")


def test_undistorts_only_what_is_there(tmp_path: Path) -> None:
    distorted = open_workspace(make_workspace(tmp_path / "in", "SIMPLE_RADIAL"))
    (distorted.image_folder / NAMES[2]).unlink()
    undistort(distorted, list(NAMES[:2]), tmp_path / "out")
    assert not (tmp_path / "out/images" / NAMES[2]).exists()
    (distorted.image_folder / NAMES[1]).write_bytes(b"no image")
    with pytest.raises(ColmapError, match=r"cannot read 1 images, the first sub/b\.c\.png"):
        undistort(distorted, list(NAMES[:2]), tmp_path / "out2")


def test_takes_the_largest_of_several_models(tmp_path: Path) -> None:
    make_workspace(tmp_path, folder="sparse/1")
    small = pycolmap.Reconstruction(make_workspace(tmp_path / "other") / "sparse")
    small.deregister_frame(3)
    (tmp_path / "sparse/0").mkdir()
    small.write_binary(tmp_path / "sparse/0")
    assert open_workspace(tmp_path).model == tmp_path / "sparse/1"


def test_images_elsewhere(tmp_path: Path) -> None:
    make_workspace(tmp_path, folder="model/sparse/0")
    with pytest.raises(ColmapError, match=r"model/images: no such folder; .*images"):
        open_workspace(tmp_path / "model")
    workspace = open_workspace(tmp_path / "model", tmp_path / "images")
    assert workspace.image_folder == tmp_path / "images"


def test_depth_maps(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path) / "stereo/depth_maps/sub"
    folder.mkdir(parents=True)
    workspace = open_workspace(tmp_path)
    assert workspace.depth_map("sub/d.png") is None
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    for kind, scale in (("photometric", 1), ("geometric", 2)):
        # written by COLMAP's own class
        pycolmap.DepthMap.from_array(scale * values, 0.0, 100.0).write(folder / f"d.png.{kind}.bin")
        path = workspace.depth_map("sub/d.png")
        assert path is not None
        np.testing.assert_array_equal(read_depth_map(path), scale * values)


@pytest.mark.parametrize(
    "content", [b"", b"junk", b"4&3&1&", b"4&3&1&" + bytes(40), b"4&3&3&" + bytes(144), b"-4&-3&1&" + bytes(48)]
)
def test_damaged_depth_maps(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.bin").write_bytes(content)
    with pytest.raises(ColmapError, match=r"d\.bin"):
        read_depth_map(tmp_path / "d.bin")


@pytest.mark.parametrize(
    ("name", "share"),
    [("cameras", 0.6), ("cameras", 0.9), ("images", 0.6), ("frames", 0.6), ("points3D", 0), ("points3D", 0.6)],
)
def test_files_that_were_cut_short(tmp_path: Path, name: str, share: float) -> None:
    path = make_workspace(tmp_path) / "sparse" / f"{name}.bin"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ColmapError, match="sparse") as error:
        open_workspace(tmp_path)
    assert "\n" not in str(error.value)


def test_what_is_no_workspace(tmp_path: Path) -> None:
    with pytest.raises(ColmapError, match="no such folder"):
        open_workspace(tmp_path / "nowhere")
    with pytest.raises(ColmapError, match="no COLMAP model"):
        open_workspace(tmp_path)
    (tmp_path / "images").mkdir()
    pycolmap.Reconstruction().write_binary(tmp_path)
    with pytest.raises(ColmapError, match="no image of the model has a pose"):
        open_workspace(tmp_path)


def _check_spots(folder: Path, image, tolerance: float) -> None:
    pixels = np.asarray(Image.open(folder / image.name).convert("RGB"))
    in_camera = POINTS @ image.R.T + image.t
    projected = in_camera @ image.K.T
    projected = projected[:, :2] / projected[:, 2:]
    inside = (projected > 8).all(axis=1) & (projected < (image.width - 9, image.height - 9)).all(axis=1)
    assert inside.sum() >= 3
    for expected in projected[inside]:
        np.testing.assert_allclose(spot(pixels, expected), expected, atol=tolerance)


def test_text_models_keep_names_with_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "NAMES", ("a b.png", "sub x/b.c  d.png", "sub x/e.png"))
    workspace = open_workspace(make_workspace(tmp_path, "SIMPLE_RADIAL", binary=False))
    assert [image.name for image in workspace.images] == list(NAMES)
    assert [len(image.points) for image in workspace.images] == [5, 4, 0]
    result = undistort(workspace, [image.name for image in workspace.images], tmp_path / "undistorted")
    assert [image.name for image in result.images] == list(NAMES)
