"""Undistorted images and models: spots are where the new cameras see the points."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image
from spot_workspace import HEIGHT, NAMES, PARAMS, POINTS, WIDTH, check_spots, make_workspace

from disk.colmap.undistortion import undistort
from disk.colmap.workspace import open_workspace
from disk.errors import ColmapError, ImageError


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
        check_spots(workspace.image_folder, image, 0.1)


def test_a_fisheye_camera_without_distortion_becomes_a_pinhole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COLMAP's own tool copies such images unchanged."""
    monkeypatch.setitem(PARAMS, "OPENCV_FISHEYE", [150.0, 150.0, 83.0, 57.0, 0.0, 0.0, 0.0, 0.0])
    workspace = undistort(open_workspace(make_workspace(tmp_path / "in", "OPENCV_FISHEYE")), NAMES, tmp_path / "out")
    assert [image.name for image in workspace.images] == list(NAMES)
    cameras = pycolmap.Reconstruction(workspace.model).cameras.values()
    assert {camera.model.name for camera in cameras} == {"PINHOLE"}
    for image in workspace.images:
        check_spots(workspace.image_folder, image, 0.1)


def test_only_existing_images_are_undistorted(tmp_path: Path) -> None:
    distorted = open_workspace(make_workspace(tmp_path / "in", "SIMPLE_RADIAL"))
    (distorted.image_folder / NAMES[2]).unlink()
    undistort(distorted, list(NAMES[:2]), tmp_path / "out")
    assert not (tmp_path / "out/images" / NAMES[2]).exists()
    (distorted.image_folder / NAMES[1]).write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"sub/b\.c\.png"):
        undistort(distorted, list(NAMES[:2]), tmp_path / "out2")


def test_the_model_keeps_its_points_and_what_images_see(tmp_path: Path) -> None:
    before = make_workspace(tmp_path / "in", "OPENCV")
    undistort(open_workspace(before), NAMES[:2], tmp_path / "out")
    model = pycolmap.Reconstruction(tmp_path / "out" / "sparse" / "0")
    assert sorted(model.image(i).name for i in model.reg_image_ids()) == list(NAMES[:2])
    assert len(model.points3D) == len(POINTS)
    assert model.compute_mean_reprojection_error() < 1e-6
    for point in model.points3D.values():
        for element in point.track.elements:
            image = model.image(element.image_id)
            seen = model.camera(image.camera_id).img_from_cam(image.cam_from_world() * point.xyz)
            assert np.allclose(seen, image.points2D[element.point2D_idx].xy, atol=1e-6)


@pytest.mark.parametrize("orientation", [1, 6])
def test_masks_follow_their_images(tmp_path: Path, orientation: int) -> None:
    """The mask is 0 around the first point's spot, and so is the undistorted one, even for a photo stored rotated."""
    root = make_workspace(tmp_path / "in", "SIMPLE_RADIAL")
    source = open_workspace(root)
    path = root / "images" / NAMES[0]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(path).save(path, exif=exif)
    mask = np.where(np.asarray(Image.open(path))[:, :, 0] > 20, 0, 255).astype(np.uint8)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    result = undistort(source, NAMES, tmp_path / "out", masks={NAMES[0]: tmp_path / "mask.png"})
    image = result.images[0]
    pixels = np.asarray(Image.open(result.image_folder / image.name).convert("L"))
    written = np.asarray(Image.open(tmp_path / "out" / "masks" / f"{NAMES[0]}.png"))
    assert written.shape == pixels.shape == (image.height, image.width)
    assert set(np.unique(written)) == {0, 255}
    assert (written[pixels > 40] == 0).all()
    assert (written[pixels < 5] == 255).all()
    assert not Image.open(result.image_folder / image.name).getexif().get(0x0112)
    assert [file.name for file in (tmp_path / "out" / "masks").rglob("*.png")] == [f"{NAMES[0]}.png"]


def test_smaller_images(tmp_path: Path) -> None:
    result = undistort(open_workspace(make_workspace(tmp_path / "in")), NAMES, tmp_path / "out", max_size=80)
    assert len(result.images) == len(NAMES)
    for image in result.images:
        assert max(image.width, image.height) == 80
        assert Image.open(result.image_folder / image.name).size == (image.width, image.height)
        scale = image.width / WIDTH
        pixel = image.K @ (image.R @ POINTS[2] + image.t)
        bright = np.unravel_index(np.asarray(Image.open(result.image_folder / image.name))[..., 0].argmax(), (60, 80))
        assert scale == 0.5
        assert any(
            np.linalg.norm(p[:2] / p[2] - bright[::-1]) < 1.5 for p in (POINTS @ image.R.T + image.t) @ image.K.T
        ), pixel


def test_pinhole_images_are_copied(tmp_path: Path) -> None:
    source = make_workspace(tmp_path / "in")
    result = undistort(open_workspace(source), NAMES, tmp_path / "out")
    for name in NAMES:
        assert (result.image_folder / name).read_bytes() == (source / "images" / name).read_bytes()


def test_files_are_readable_by_splatting_programs(tmp_path: Path) -> None:
    """cameras.bin by the layout that 3DGS, gsplat and nerfstudio have copied from COLMAP's scripts."""
    undistort(open_workspace(make_workspace(tmp_path / "in", "SIMPLE_RADIAL")), NAMES, tmp_path / "out")
    content = (tmp_path / "out" / "sparse" / "0" / "cameras.bin").read_bytes()
    count, number, model, width, height, *params = struct.unpack("<QiiQQ4d", content)
    assert (count, number, model) == (1, 1, 1), "one camera, PINHOLE"
    assert (width, height) == Image.open(tmp_path / "out" / "images" / NAMES[0]).size
    assert params[:2] == pytest.approx([150, 150], rel=0.1)
    assert params[2] != WIDTH / 2 != HEIGHT


def test_other_kinds_of_files_become_png(tmp_path: Path) -> None:
    root = make_workspace(tmp_path / "in", "SIMPLE_RADIAL")
    Image.open(root / "images" / NAMES[0]).save(root / "images" / "a.webp", lossless=True)
    model = pycolmap.Reconstruction(root / "sparse")
    model.image(1).name = "a.webp"
    model.write(root / "sparse")
    result = undistort(open_workspace(root), ["a.webp", *NAMES[1:]], tmp_path / "out")
    assert [image.name for image in result.images] == list(NAMES)
    check_spots(result.image_folder, result.images[0], 0.1)
    (root / "images" / "a.png").unlink()


def test_a_spherical_camera_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PARAMS, "EQUIRECTANGULAR", [160.0, 120.0])
    with pytest.raises(ColmapError, match="EQUIRECTANGULAR cameras are spherical"):
        undistort(open_workspace(make_workspace(tmp_path / "in", "EQUIRECTANGULAR")), NAMES, tmp_path / "out")
