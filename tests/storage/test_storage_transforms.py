"""transforms.json: poses and cameras compared with hand-made ones, and invalid files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from disk.errors import ColmapError
from disk.storage.transforms import Frame, read_transforms, write_transforms

# a camera at (1, 2, 3) that looks along the world's +x, y up: its x axis is the world's +z
POSE = [[0, 0, -1, 1], [0, 1, 0, 2], [1, 0, 0, 3], [0, 0, 0, 1]]
CAMERA = {"fl_x": 500.0, "fl_y": 510.0, "cx": 320.0, "cy": 240.0, "w": 640, "h": 480}


def write(path: Path, **content: object) -> Path:
    frame = {"file_path": "images/a.jpg", "transform_matrix": POSE}
    path.write_text(json.dumps({**CAMERA, "frames": [frame], **content}))
    return path


def test_a_pose_by_hand(tmp_path: Path) -> None:
    (frame,) = read_transforms(write(tmp_path / "transforms.json"))
    assert (frame.path, frame.model, frame.width, frame.height) == ("images/a.jpg", "PINHOLE", 640, 480)
    assert frame.params == (500.0, 510.0, 320.0, 240.0)
    assert np.allclose(-frame.R.T @ frame.t, [1, 2, 3])
    assert np.allclose(frame.R @ [6, 2, 3] + frame.t, [0, 0, 5]), "five units ahead"
    assert np.allclose(frame.R @ [1, 1, 3] + frame.t, [0, 1, 0]), "below is y down"


def test_written_frames_read_back(tmp_path: Path) -> None:
    R = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    R = R * np.linalg.det(R)
    written = Frame("images/a.jpg", "PINHOLE", 640, 480, (1.0, 2.0, 3.0, 4.0), R, np.arange(3.0), "masks/a.jpg.png")
    write_transforms(tmp_path / "t.json", [written], "points.ply")
    (frame,) = read_transforms(tmp_path / "t.json")
    assert np.allclose(frame.R, R)
    assert np.allclose(frame.t, written.t)
    assert (frame.path, frame.params) == (written.path, written.params)
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["ply_file_path"] == "points.ply"
    assert content["frames"][0]["mask_path"] == "masks/a.jpg.png"


@pytest.mark.parametrize(
    ("content", "model", "params"),
    [
        ({"k1": 0.1}, "OPENCV", (0.1, 0, 0, 0)),
        ({"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k4": 0.2}, "OPENCV_FISHEYE", (0.1, 0, 0, 0.2)),
        ({"camera_model": "OPENCV", "k1": 0, "p2": 0.01}, "OPENCV", (0, 0, 0, 0.01)),
    ],
)
def test_distortion(tmp_path: Path, content: dict, model: str, params: tuple) -> None:
    (frame,) = read_transforms(write(tmp_path / "t.json", **content))
    assert frame.model == model
    assert frame.params[4:] == params


def test_a_field_of_view_alone(tmp_path: Path) -> None:
    """As in NeRF's synthetic scenes: the angle between the left and the right border, and no size."""
    frame = {"file_path": "./train/r_0", "transform_matrix": POSE}
    path = tmp_path / "transforms_train.json"
    path.write_text(json.dumps({"camera_angle_x": np.pi / 2, "frames": [frame]}))
    (found,) = read_transforms(path, (800, 800))
    assert found.params == pytest.approx((400, 400, 400, 400))
    with pytest.raises(ColmapError, match="has no 'w' and 'h'"):
        read_transforms(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a transforms.json"),
        ("[]", "not a transforms.json"),
        ("{}", "has no 'frames'"),
        ('{"frames": []}', "has no frames"),
        ('{"frames": [{"file_path": "a.jpg"}]}', "has no 'transform_matrix'"),
        ('{"w": 1, "h": 1, "frames": [{"file_path": "a", "transform_matrix": [[1]]}]}', "not 4 x 4"),
    ],
)
def test_invalid_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ColmapError, match=message):
        read_transforms(tmp_path / "t.json")


def test_unusable_cameras_and_poses(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    for content, message in [
        ({"camera_model": "EQUIRECTANGULAR"}, "EQUIRECTANGULAR are not supported"),
        ({"k3": 0.1}, "no parameter k3"),
        ({"frames": [{"file_path": "a.jpg", "transform_matrix": (2 * np.eye(4)).tolist()}]}, "begin with a rotation"),
    ]:
        with pytest.raises(ColmapError, match=message):
            read_transforms(write(path, **content))
    with pytest.raises(ColmapError, match="cannot read"):
        read_transforms(tmp_path / "nowhere.json")
