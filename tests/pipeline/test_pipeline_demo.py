"""The demo: its measurements on cases worked out by hand, its renderer, and a small run."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from disk.cli.main import main
from disk.datasets.synthesis.textures import build_store
from disk.errors import ArtifactError
from disk.geometry.camera import Camera, project
from disk.pipeline.demo import DemoOptions, demo
from disk.pipeline.demo import _prepare as prepare
from disk.pipeline.demo.alignment import align, aligned_camera
from disk.pipeline.demo.photos import centre_crop, load_photo
from disk.pipeline.demo.scene import LIGHT, Face, Room, build_room, orbit, render_view
from disk.pipeline.demo.stereo import disparity_errors, load_disparity


def points(*rows: tuple[float, float]) -> np.ndarray:
    return np.array(rows, np.float32)


# disparities


def test_a_match_is_correct_where_the_disparity_puts_it() -> None:
    disparity = np.full((10, 100), 8.0, np.float32)
    left = points((50, 3), (50, 3), (50, 3), (50, 3))
    right = points((42, 3), (58, 3), (45, 7), (42, 0.5))
    np.testing.assert_allclose(disparity_errors(left, right, disparity), [0, 16, 5, 2.5])


def test_unknown_disparities_are_neither_correct_nor_wrong() -> None:
    disparity = np.array([[np.nan, np.inf, -np.inf, 2.0]], np.float32)
    left = points((0, 0), (1, 0), (2, 0), (3, 0))
    errors = disparity_errors(left, points((0, 0), (0, 0), (0, 0), (1, 0)), disparity)
    assert np.isnan(errors).tolist() == [True, True, True, False]
    assert errors[3] == 0


def test_the_disparity_is_that_of_the_nearest_pixel_also_at_the_border() -> None:
    disparity = np.arange(12, dtype=np.float32).reshape(3, 4)
    left = points((1.4, 0.6), (3.4, 2.4), (-0.4, -0.4))
    right = left - points((5, 0), (11, 0), (0, 0))
    np.testing.assert_allclose(disparity_errors(left, right, disparity), 0, atol=1e-6)
    assert disparity_errors(left[:0], right[:0], disparity).shape == (0,)


def test_the_photographs_confirm_the_sign_of_the_disparity() -> None:
    """Pixels that correspond by disparity have about the same colour; with the opposite sign they do not."""
    left, right = (load_photo(f"motorcycle_{side}.png").astype(float) for side in ("left", "right"))
    disparity = load_disparity()
    assert disparity.shape == left.shape[:2]
    assert 0.02 < (~np.isfinite(disparity)).mean() < 0.2
    rows, columns = np.nonzero(np.isfinite(disparity))
    rows, columns = rows[::17], columns[::17]
    shift = np.rint(disparity[rows, columns]).astype(int)
    difference = {}
    for sign in (-1, 1):
        there = columns + sign * shift
        inside = (there >= 0) & (there < left.shape[1])
        pair = left[rows[inside], columns[inside]], right[rows[inside], there[inside]]
        difference[sign] = np.median(np.abs(pair[0] - pair[1]))
        ends = (
            np.stack([columns, rows], 1).astype(np.float32),
            np.stack([columns + sign * shift, rows], 1).astype(np.float32),
        )
        assert (disparity_errors(*ends, disparity) <= 0.5).all() == (sign == -1)
    assert difference[-1] < 5
    assert difference[1] > 20


# the scene


@pytest.fixture(scope="module")
def room() -> Room:
    return build_room()


def colour_on(room: Room, index: int, u: float, v: float) -> np.ndarray:
    """The colour of a face's texture at (u, v) in [-1, 1], lit."""
    width, height = room.photos.sizes[index].tolist()
    begin = int(room.photos.offsets[index, 0])
    texels = room.photos.texels[begin : begin + width * height].numpy().view(np.uint8).reshape(height, width, 4)
    patch = texels[round((v + 1) / 2 * height) - 3 :][:6, round((u + 1) / 2 * width) - 3 :][:, :6, :3]
    return patch.mean((0, 1)) * (0.7 + 0.3 * max(0, room.faces[index].outward @ LIGHT))


def test_photos_appear_upright_where_the_camera_model_puts_them(room: Room) -> None:
    """Points on faces towards the camera: their pixels have the photo's colour there, not that of its mirror image."""
    camera = orbit(12, 800, 600)[6]
    image = render_view(room, camera, 800, 600).astype(float)
    rng = np.random.default_rng(0)
    astronaut, coffee = 5, 5 + 2 * 5
    differences = []
    for index in (astronaut, coffee):
        face = room.faces[index]
        for u, v in rng.uniform([-0.9, -0.9], [0.9, 0], (60, 2)):  # nothing hides the upper halves
            point = torch.from_numpy(face.centre + u * face.right + v * face.down)[None]
            x, y = (int(value) for value in project(camera, point)[0][0].round())
            seen = image[y, x]
            places = ((u, v), (-u, v), (u, -v))
            differences.append([np.abs(seen - colour_on(room, index, *place)).max() for place in places])
    right, mirrored, upside_down = np.median(differences, axis=0)
    assert right < 6
    assert min(mirrored, upside_down) > 40


def test_near_faces_hide_far_ones(room: Room) -> None:
    """A box and a larger one behind it: the image shows the nearer one, in either order."""
    camera = orbit(1, 64, 48)[0]
    eye = (-camera.R.T @ camera.t).numpy()
    forward = camera.R[2].numpy()
    right, down = camera.R[0].numpy(), camera.R[1].numpy()
    red, blue = (np.full((128, 128, 3), colour, np.uint8) for colour in ((200, 0, 0), (0, 0, 200)))
    near = Face(eye + 2 * forward, 0.3 * right, 0.3 * down, red)
    far = Face(eye + 4 * forward, 2 * right, 2 * down, blue)
    for faces in ([near, far], [far, near]):
        image = render_view(Room(faces, build_store(f.photo for f in faces)), camera, 64, 48)
        assert image[24, 32, 0] > 100
        assert image[24, 32, 2] == 0
        assert image[24, 8, 2] > 100
        assert image[24, 8, 0] == 0
    # a face turned away from the camera is invisible
    back = Face(near.centre, -near.right, near.down, red)
    image = render_view(Room([back, far], build_store([red, blue])), camera, 64, 48)
    assert not image[..., 0].any()
    assert image[24, 32, 2] > 100


def test_edges_are_averaged_over_the_pixel() -> None:
    """The right side of a white square runs through the centre of a pixel column: these pixels are half bright."""
    K = torch.tensor([[100.0, 0, 0], [0, 100, 15.5], [0, 0, 1]], dtype=torch.float64)
    camera = Camera(K, torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    white = np.full((128, 128, 3), 255, np.uint8)
    # at depth 1 a pixel is 0.01 wide, and pixel 10 spans 9.5 to 10.5
    face = Face(np.array([-0.4, 0, 1]), np.array([0.5, 0, 0]), np.array([0, 0.5, 0.0]), white)
    image = render_view(Room([face], build_store([white])), camera, 32, 32).astype(float)
    full = image[16, 5, 0]
    assert full >= 0.7 * 255 - 1
    np.testing.assert_allclose(image[16, 8:13, 0], np.array([1, 1, 0.5, 0, 0]) * full, atol=1)


def test_cameras_stand_around_the_boxes_and_look_at_them() -> None:
    cameras = orbit(12, 800, 600)
    centres = np.array([(-camera.R.T @ camera.t).numpy() for camera in cameras])
    np.testing.assert_allclose(np.linalg.norm(centres[:, :2], axis=1), 3.3)
    angles = np.degrees(np.arctan2(centres[:, 1], centres[:, 0]))
    np.testing.assert_allclose(np.diff(angles), 15)
    for camera in cameras:
        (pixel,), (depth,) = project(camera, torch.tensor([[0, 0, 0.4]], dtype=torch.float64))
        np.testing.assert_allclose(pixel, [399.5, 299.5], atol=1e-9)
        assert depth > 3


def test_centre_crop_keeps_the_middle() -> None:
    image = np.arange(100 * 60, dtype=np.uint8).reshape(60, 100)[..., None].repeat(3, 2)
    np.testing.assert_array_equal(centre_crop(image, 1.0), image[:, 20:80])
    np.testing.assert_array_equal(centre_crop(image, 2.0), image[5:55])


# poses


def turn(axis: int, degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = np.eye(3)
    i, j = [k for k in range(3) if k != axis]
    matrix[i, i], matrix[i, j], matrix[j, i], matrix[j, j] = cos, -sin, sin, cos
    return matrix


def true_poses() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {f"view{i}": (camera.R.numpy(), camera.t.numpy()) for i, camera in enumerate(orbit(6, 80, 60))}


def moved(pose: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The pose in another world: x' = (R^T (x - t)) / s with s = 0.4, so that x = s R x' + t maps back."""
    s, R, t = 0.4, turn(0, 70) @ turn(2, 35), np.array([3.0, -1, 2])
    return pose[0] @ R, (pose[0] @ t + pose[1]) / s


def test_alignment_undoes_a_similarity() -> None:
    truth = true_poses()
    estimated = {name: moved(pose) for name, pose in truth.items()}
    alignment = align(estimated, truth)
    assert alignment is not None
    assert alignment.scale == pytest.approx(0.4)
    np.testing.assert_allclose(alignment.t, [3, -1, 2], atol=1e-9)
    assert max(alignment.rotation.values()) < 1e-6
    assert max(alignment.position.values()) < 1e-6
    camera = aligned_camera(estimated["view2"], torch.eye(3, dtype=torch.float64), alignment)
    np.testing.assert_allclose(camera.R, truth["view2"][0], atol=1e-9)
    np.testing.assert_allclose(camera.t, truth["view2"][1], atol=1e-9)


def test_a_camera_rotated_in_place_is_off_by_that_angle_alone() -> None:
    truth = true_poses()
    estimated = {name: moved(pose) for name, pose in truth.items()}
    R, t = estimated["view3"]
    estimated["view3"] = (turn(1, 2) @ R, turn(1, 2) @ t)
    alignment = align(estimated, truth)
    assert alignment is not None
    assert alignment.rotation["view3"] == pytest.approx(2)
    assert alignment.rotation["view2"] < 1e-6
    assert alignment.position["view3"] < 1e-6


def test_two_cameras_cannot_be_aligned() -> None:
    truth = true_poses()
    assert align({name: moved(truth[name]) for name in ("view0", "view1")}, truth) is None
    assert align({}, truth) is None


# the whole demo, small


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A demo of four small views, run by the command, and its output."""
    out = tmp_path_factory.mktemp("demo") / "out"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["demo", "--output", str(out), "--views", "4", "--width", "512", "--n", "2048"]) == 0
    return out, printed.getvalue()


@pytest.mark.slow
def test_demo_prints_figures_and_files_to_open(small_demo: tuple[Path, str]) -> None:
    _, printed = small_demo
    agree = re.search(r"agree within 3 px +(\d+) \((\d+\.\d) %\)", printed)
    matches = re.search(r"of these with ground truth +(\d+)", printed)
    assert agree
    assert matches
    assert 100 * int(agree[1]) / int(matches[1]) == pytest.approx(float(agree[2]), abs=0.051)
    assert int(agree[1]) > 100
    assert re.search(r"registered views +[34] of 4", printed)
    rotation = re.search(r"rotation error, median / worst +([\d.]+)° / ([\d.]+)°", printed)
    assert rotation
    assert float(rotation[1]) < 15  # the quality of the weights is not tested here
    last = printed.split("Open these:")[1]
    named = [Path(line.split()[0]) for line in last.strip().splitlines()]
    assert len(named) == 3
    assert all(path.is_file() for path in named)


def test_demo_leaves_a_report_with_all_pictures(small_demo: tuple[Path, str]) -> None:
    out, _ = small_demo
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == 6
    assert "registered views" in page
    with Image.open(out / "scene" / "images" / "view00.jpg") as view:
        assert view.size == (512, 384)
    assert (out / "scene" / "model" / "sparse" / "0").is_dir()


def test_a_second_demo_starts_over(small_demo: tuple[Path, str]) -> None:
    """Files of the first demo are deleted; nothing else in the folder is touched."""
    out, _ = small_demo
    (out / "scene" / "images" / "view99.jpg").write_bytes(b"left over")
    (out / "notes.txt").write_text("mine")
    prepare(out)
    assert not (out / "scene").exists()
    assert not (out / "report.html").exists()
    assert (out / "notes.txt").read_text() == "mine"


def test_a_mistake_keeps_the_earlier_demo(small_demo: tuple[Path, str], capsys: pytest.CaptureFixture) -> None:
    out, _ = small_demo
    (out / "stereo").mkdir(exist_ok=True)
    assert main(["demo", "--output", str(out), "--model-path", "nowhere.pth"]) == 2
    for option, value in {"--views": "1", "--width": "1", "--n": "0"}.items():
        assert main(["demo", "--output", str(out), option, value]) == 2
    assert "nowhere.pth" in capsys.readouterr().err
    assert (out / "stereo").is_dir()


def test_demo_does_not_touch_other_folders(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "scene").mkdir()
    (tmp_path / "scene" / "mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="contains files that are not a demo"):
        demo(DemoOptions(output=tmp_path))
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "--output" in capsys.readouterr().err
    assert (tmp_path / "scene" / "mine.txt").exists()
