"""COLMAP workspaces: models written by pycolmap itself, images drawn where its cameras see the points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest
import spot_workspace
from spot_workspace import HEIGHT, NAMES, WIDTH, check_spots, make_workspace

from disk.colmap.undistortion import undistort
from disk.colmap.workspace import open_workspace, read_depth_map
from disk.errors import ColmapError


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
    """K, R, t project a point onto the centre of its spot; the first pixel's centre is (0, 0)."""
    workspace = open_workspace(make_workspace(tmp_path))
    assert len(workspace.images) > 0
    for image in workspace.images:
        check_spots(workspace.image_folder, image, 0.01)


def test_takes_the_largest_of_several_models(tmp_path: Path) -> None:
    make_workspace(tmp_path, folder="sparse/1")
    small = pycolmap.Reconstruction(make_workspace(tmp_path / "other") / "sparse")
    small.deregister_frame(3)
    (tmp_path / "sparse/0").mkdir()
    small.write_binary(tmp_path / "sparse/0")
    assert open_workspace(tmp_path).model == tmp_path / "sparse/1"


def test_images_in_another_folder(tmp_path: Path) -> None:
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
def test_truncated_files(tmp_path: Path, name: str, share: float) -> None:
    path = make_workspace(tmp_path) / "sparse" / f"{name}.bin"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ColmapError, match="sparse") as error:
        open_workspace(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_workspace(tmp_path: Path) -> None:
    with pytest.raises(ColmapError, match="no such folder"):
        open_workspace(tmp_path / "nowhere")
    with pytest.raises(ColmapError, match="no COLMAP model"):
        open_workspace(tmp_path)
    (tmp_path / "images").mkdir()
    pycolmap.Reconstruction().write_binary(tmp_path)
    with pytest.raises(ColmapError, match="no image of the model has a pose"):
        open_workspace(tmp_path)


def test_text_models_keep_names_with_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("a b.png", "sub x/b.c  d.png", "sub x/e.png")
    monkeypatch.setattr(spot_workspace, "NAMES", names)
    workspace = open_workspace(make_workspace(tmp_path, "SIMPLE_RADIAL", binary=False))
    assert [image.name for image in workspace.images] == list(names)
    assert [len(image.points) for image in workspace.images] == [5, 4, 0]
    result = undistort(workspace, names, tmp_path / "undistorted")
    assert [image.name for image in result.images] == list(names)
