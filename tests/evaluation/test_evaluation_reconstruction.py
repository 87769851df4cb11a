import json
from dataclasses import FrozenInstanceError
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest
from evaluation_world import photo
from PIL import Image

from disk.colmap import sift
from disk.colmap.database import open_database
from disk.errors import ColmapError, EvaluationError
from disk.evaluation.reconstruction import ReconstructionOptions, evaluate_reconstruction

WIDTH, HEIGHT, FOCAL = 320, 240, 384.0  # COLMAP's guess of the focal length: 1.2 times the width


@pytest.fixture(scope="module")
def corner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of a room's corner, two walls at right angles with pictures on them, from four positions."""
    root = tmp_path_factory.mktemp("corner")
    K = np.array([[FOCAL, 0, WIDTH / 2 - 0.5], [0, FOCAL, HEIGHT / 2 - 0.5], [0, 0, 1]])
    # a wall: world = origin + u * right + v * down, u and v in pixels of its picture
    walls = [
        (photo(400, 400, 0), np.array([-4.0, -2, 4]), np.array([0.01, 0, 0.01]), np.array([0, 0.01, 0])),
        (photo(400, 400, 100), np.array([0.0, -2, 8]), np.array([0.01, 0, -0.01]), np.array([0, 0.01, 0])),
    ]
    (root / "images").mkdir()
    for i in range(4):
        angle = np.radians(8 * (i - 1.5))
        R = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        t = -R @ np.array([-1.0 * (i - 1.5), 0.1 * i, 0])
        canvas = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
        for picture, origin, right, down in walls:
            H = K @ np.stack([R @ right, R @ down, R @ origin + t], axis=1)
            warped = cv2.warpPerspective(picture, H, (WIDTH, HEIGHT))
            covered = cv2.warpPerspective(np.full(picture.shape[:2], 255, np.uint8), H, (WIDTH, HEIGHT)) > 128
            canvas[covered] = warped[covered]
        Image.fromarray(canvas).save(root / "images" / f"{i}.png")
    return root


def test_sift_keeps_n_keypoints_of_the_largest_scale(corner, tmp_path):
    names = [f"{i}.png" for i in range(4)]
    sift.find_sift(tmp_path / "all.db", corner / "images", names, 10_000, 0, "SIMPLE_RADIAL", False)
    sift.find_sift(tmp_path / "few.db", corner / "images", names, 50, 0, "SIMPLE_RADIAL", False)
    with open_database(tmp_path / "all.db") as every, open_database(tmp_path / "few.db") as few:
        for image in few.read_all_images():
            kept = few.read_keypoints(image.image_id)
            assert len(kept) == len(few.read_descriptors(image.image_id).data) == 50
            found = every.read_keypoints(every.read_image_with_name(image.name).image_id)
            scale = np.sqrt(np.abs(found[:, 2] * found[:, 5] - found[:, 3] * found[:, 4]))
            ours = np.sqrt(np.abs(kept[:, 2] * kept[:, 5] - kept[:, 3] * kept[:, 4]))
            assert ours.min() >= np.sort(scale)[-80]


def test_sift_of_a_file_colmap_cannot_read(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ColmapError, match=r"cannot decode a\.png"):
        sift.find_sift(tmp_path / "db", tmp_path, ["a.png"], 10, 0, "SIMPLE_RADIAL", False)


def test_ours_and_sift_on_the_same_images(corner, tmp_path, capsys):
    options = ReconstructionOptions(n=400, json=tmp_path / "r.json", out=tmp_path / "models")
    report = evaluate_reconstruction((corner / "images",), options)
    assert [result.label for result in report.results] == ["disk", "COLMAP's SIFT"]
    ours, theirs = (result.figures[corner.name] for result in report.results)
    assert theirs["registered"] == theirs["images"] == ours["images"] == 4
    assert theirs["points"] > 20  # COLMAP verifies in several threads, so the number varies
    assert theirs["track length"] >= 2
    assert 0 < theirs["reprojection error (px)"] < 1
    assert theirs["keypoints per image"] <= 400
    assert theirs["seconds"] > 0
    # the figures describe the model that was kept
    model = pycolmap.Reconstruction(tmp_path / "models" / corner.name / "sift" / "sparse" / "0")
    assert theirs["points"] == model.num_points3D()
    assert "reprojection error" in capsys.readouterr().out
    assert json.loads((tmp_path / "r.json").read_text())["results"][1]["figures"][corner.name]["images"] == 4


def test_images_that_cannot_be_connected_are_zeros(tmp_path):
    folder = tmp_path / "blank"
    folder.mkdir()
    for name in "ab":
        Image.new("RGB", (64, 48)).save(folder / f"{name}.png")
    report = evaluate_reconstruction((folder,), ReconstructionOptions(n=50))
    assert len(report.results) > 0
    for result in report.results:
        assert result.figures["blank"] == {"images": 2, "registered": 0, "points": 0}


def test_bad_input(tmp_path):
    with pytest.raises(EvaluationError, match="no images"):
        evaluate_reconstruction(())
    with pytest.raises(EvaluationError, match="share a name"):
        evaluate_reconstruction((tmp_path, tmp_path))


def test_options_have_the_defaults_of_the_protocol_and_are_keyword_only():
    options = ReconstructionOptions()
    assert (options.n, options.max_size, options.seed, options.single_camera) == (2048, 1600, 0, False)
    with pytest.raises(TypeError):
        ReconstructionOptions((1.0,))
    with pytest.raises(FrozenInstanceError):
        ReconstructionOptions().n = 5
