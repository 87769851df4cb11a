from dataclasses import FrozenInstanceError
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from disk.errors import EvaluationError
from disk.evaluation.ground_truth import View, read_homography_pairs, read_imw_scene, read_pose_pairs


def edit(world, line: int, column: int, value: str) -> None:
    lines = world.pairs.read_text().splitlines()
    words = lines[line - 1].split()
    words[column] = value
    lines[line - 1] = " ".join(words)
    world.pairs.write_text("\n".join(lines) + "\n")


def refused(world, match: str) -> None:
    with pytest.raises(EvaluationError, match=match) as caught:
        read_pose_pairs(world.pairs, world.images)
    assert "\n" not in str(caught.value)


def test_reads_pairs(world):
    edit(world, 2, 2, "1")
    world.pairs.write_text("\n" + world.pairs.read_text())  # a blank line is not a pair
    pairs = read_pose_pairs(world.pairs, world.images)
    assert len(pairs) == 6
    with pytest.raises(FrozenInstanceError):
        pairs[0].R = np.eye(3)
    assert (pairs[0].view0.name, pairs[0].view1.name) == ("v0", "v1")
    assert pairs[0].view0.path == world.images / "v0.png"
    assert (pairs[1].view0.turns, pairs[1].view1.turns) == (1, 0)
    assert (pairs[0].view0.second, pairs[0].view1.second) == (False, True)
    words = world.pairs.read_text().splitlines()[1].split()
    np.testing.assert_array_equal(pairs[0].K1.ravel(), [float(word) for word in words[13:22]])
    np.testing.assert_array_equal(pairs[0].R[1], [float(word) for word in words[26:29]])
    np.testing.assert_array_equal(pairs[0].t, [float(words[i]) for i in (25, 29, 33)])


def test_names_the_line_without_ground_truth(world):
    with world.pairs.open("a") as file:
        file.write("v0.png v1.png\n")
    refused(world, r"pairs\.txt:7: no ground truth")


@pytest.mark.parametrize("words", ["v0.png", "v0.png v1.png 0 0 1 2 3", "a b c d " * 10])
def test_names_the_line_with_wrong_columns(world, words):
    lines = world.pairs.read_text().splitlines()
    lines[3] = words
    world.pairs.write_text("\n".join(lines))
    refused(world, rf"pairs\.txt:4: {len(words.split())} columns? instead of 38")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, "none.png", "no file .*none.png"),
        (1, "../pairs.txt", "not below"),
        (2, "90", "must be quarter turns, 0 to 3, not 90 0"),
        (4, "x", "could not convert string to float: 'x'"),
        (4, "nan", "not finite"),
        (4, "-600", "K0 is not of the form"),
        (5, "50", "K0 has a skew of 50"),
        (6, "640", r"K0 has its principal point at \(640, 240\), far from the centre of the 640 x 480 image"),
        (18, "120", r"K1 has its principal point at \(320, 120\)"),
        (21, "2", "K1 is not of the form"),
        (22, "2", "T_0to1 is not a rotation: R R.T differs from the identity by"),
        (36, "0.5", r"the last row of T_0to1 is \[0.0, 0.0, 0.5, 1.0\]"),
    ],
)
def test_names_the_line_with_a_wrong_value(world, column, value, message):
    edit(world, 5, column, value)
    refused(world, rf"pairs\.txt:5: .*{message}")


def test_a_reflection_is_not_a_rotation(world):
    for column in (22, 26, 30):
        words = world.pairs.read_text().splitlines()[0].split()
        edit(world, 1, column, str(-float(words[column])))
    refused(world, r"pairs\.txt:1: T_0to1 is a reflection")


def test_files_that_are_not_pairs(world, tmp_path):
    with pytest.raises(EvaluationError, match=r"none\.txt: no such file"):
        read_pose_pairs(tmp_path / "none.txt", world.images)
    with pytest.raises(EvaluationError, match="no such image folder"):
        read_pose_pairs(world.pairs, tmp_path / "none")
    with pytest.raises(EvaluationError, match="not a text file"):
        read_pose_pairs(world.artifacts / "keypoints.h5", world.images)
    world.pairs.write_text("\n")
    refused(world, "contains no pairs")


@pytest.fixture
def imw_scene(world, tmp_path: Path) -> Path:
    """A scene of two images with '-' in their names; the second camera is moved and rotated."""
    folder = tmp_path / "scene" / "set_100"
    for part in ("images", "calibration", "new-vis-pairs"):
        (folder / part).mkdir(parents=True)
    turn = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    for name, R, T in (("a-b", np.eye(3), [0.0, 0, 0]), ("c", turn, [[1.0], [2], [3]])):
        Image.new("RGB", (640, 480)).save(folder / "images" / f"{name}.jpg")
        with h5py.File(folder / "calibration" / f"calibration_{name}.h5", "w") as file:
            file["K"], file["R"], file["T"] = [[600.0, 0, 320], [0, 600, 240], [0, 0, 1]], R, T
    np.save(folder / "new-vis-pairs" / "keys-th-0.1.npy", ["c-a-b"])
    return folder


def test_reads_an_imw_scene(imw_scene):
    for path in (imw_scene, imw_scene.parent):
        (pair,) = read_imw_scene(path)
        assert (pair.view0.name, pair.view1.name) == ("c", "a-b")
        np.testing.assert_allclose(pair.R, [[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
        np.testing.assert_allclose(pair.t, [-2, 1, -3])


def test_unusable_imw_scenes(imw_scene, tmp_path):
    with pytest.raises(EvaluationError, match="keys-th-0"):
        read_imw_scene(imw_scene, "0.5")
    with pytest.raises(EvaluationError, match="has no set_"):
        read_imw_scene(tmp_path)
    np.save(imw_scene / "new-vis-pairs" / "keys-th-0.2.npy", ["a-b"])
    with pytest.raises(EvaluationError, match="'a-b' does not name two images"):
        read_imw_scene(imw_scene, "0.2")
    with h5py.File(imw_scene / "calibration" / "calibration_c.h5", "a") as file:
        file["R"][...] = 2 * np.eye(3)
    with pytest.raises(EvaluationError, match=r"calibration_c.h5: R is not a rotation"):
        read_imw_scene(imw_scene)
    (imw_scene / "new-vis-pairs" / "keys-th-0.3.npy").touch()
    with pytest.raises(EvaluationError, match=r"0\.3\.npy cannot be read"):
        read_imw_scene(imw_scene, "0.3")
    (imw_scene / "calibration" / "calibration_c.h5").unlink()
    with pytest.raises(EvaluationError, match=r"no file .*calibration_c\.h5"):
        read_imw_scene(imw_scene)


@pytest.fixture
def sequences(tmp_path: Path) -> Path:
    root = tmp_path / "hpatches"
    for name, suffix in (("i_light", "ppm"), ("v_view", "png"), ("other", "png")):
        (root / name).mkdir(parents=True)
        for k in range(1, 7):
            Image.new("RGB", (20, 10)).save(root / name / f"{k}.{suffix}")
            if k > 1:
                (root / name / f"H_1_{k}").write_text(f"1 0 {k}\n0 1 0\n0 0 1\n\n")
    return root


def test_reads_hpatches_sequences(sequences):
    for other in ("notes.png", "3.txt", "H_1_x"):
        (sequences / "i_light" / other).touch()
    pairs = read_homography_pairs(sequences)
    assert pairs[0].view0 == View(sequences / "i_light" / "1.ppm", "i_light/1", turns=0, second=False)
    assert pairs[1].view1 == View(sequences / "i_light" / "3.ppm", "i_light/3", turns=0, second=True)
    for record in (pairs[0], pairs[0].view0):
        with pytest.raises(FrozenInstanceError):
            record.kind = "v"
    assert [pair.kind for pair in pairs] == ["i"] * 5 + ["v"] * 5
    assert pairs[7].view1.name == "v_view/4"
    assert pairs[7].view1.path == sequences / "v_view" / "4.png"
    np.testing.assert_array_equal(pairs[7].H, [[1, 0, 4], [0, 1, 0], [0, 0, 1]])
    assert {pair.kind for pair in read_homography_pairs(sequences, ("i_light",))} == {"v"}


def test_unusable_sequences(sequences, tmp_path):
    with pytest.raises(EvaluationError, match="no such folder"):
        read_homography_pairs(tmp_path / "none")
    with pytest.raises(EvaluationError, match="contains no sequences"):
        read_homography_pairs(sequences / "other")
    for text, message in (
        ("1 0 0\n0 1\n0 0 1\n", "H_1_3:2: 2 numbers instead of 3"),
        ("1 0 0\n0 1 0\n", "H_1_3: 2 rows instead of 3"),
        ("1 0 0\n0 one 0\n0 0 1", "H_1_3:2: could not convert"),
        ("1 0 0\n1 0 0\n0 0 1", "H_1_3 is not a homography"),
    ):
        (sequences / "v_view" / "H_1_3").write_text(text)
        with pytest.raises(EvaluationError, match=message):
            read_homography_pairs(sequences)
    (sequences / "i_light" / "4.ppm").unlink()
    with pytest.raises(EvaluationError, match="i_light has homographies but no image 4"):
        read_homography_pairs(sequences)


def test_a_byte_order_mark_and_comments_are_ignored(world):
    plain = read_pose_pairs(world.pairs, world.images)
    world.pairs.write_text("# name0 name1 ...\n" + world.pairs.read_text(), encoding="utf-8-sig")
    assert len(read_pose_pairs(world.pairs, world.images)) == len(plain)
