"""rig_config.json: written, read, and refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from disk.colmap.rigs import Mounted, read_rig, rig_to_find, write_rig
from disk.errors import ColmapError

RIGHT = {
    "image_prefix": "right/",
    "cam_from_rig_rotation": [0.5, 0.5, -0.5, 0.5],
    "cam_from_rig_translation": [-0.4, 0.01, 0.05],
}
LEFT = {"image_prefix": "left/", "ref_sensor": True}


def test_a_written_rig_is_read_back(tmp_path):
    poses = {
        "left": Mounted([1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
        "right": Mounted([0.5, 0.5, -0.5, 0.5], [-0.4, 0.01, 0.05]),
    }
    write_rig(tmp_path / "rig_config.json", poses)
    assert json.loads((tmp_path / "rig_config.json").read_text()) == [{"cameras": [LEFT, RIGHT]}]
    rig = read_rig(tmp_path / "rig_config.json", ["left", "right"])
    assert rig.is_known
    first, second = rig.configs[0].cameras
    assert (first.image_prefix, first.ref_sensor, second.image_prefix, second.ref_sensor) == (
        "left/", True, "right/", False,
    )  # fmt: skip
    assert np.allclose(second.cam_from_rig.translation, [-0.4, 0.01, 0.05])
    assert np.allclose(second.cam_from_rig.rotation.quat, [0.5, -0.5, 0.5, 0.5])  # x, y, z, w


def test_a_prefix_without_a_slash_is_a_folder_too(tmp_path):
    path = tmp_path / "rig.json"
    path.write_text(json.dumps([{"cameras": [{**LEFT, "image_prefix": "left"}, RIGHT]}]))
    assert [camera.image_prefix for camera in read_rig(path, ["left", "right"]).configs[0].cameras] == [
        "left/", "right/",
    ]  # fmt: skip


def test_a_rig_without_poses_has_a_reference_camera(tmp_path):
    rig = rig_to_find(["a", "b", "c"])
    assert not rig.is_known
    assert [camera.ref_sensor for camera in rig.configs[0].cameras] == [True, False, False]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ("[{}", "cannot be read"),
        (json.dumps([{"cameras": [RIGHT]}]), "must have one reference sensor"),
        (json.dumps([{"cameras": [LEFT, {**RIGHT, "cam_from_rig_rotation": ["x", 0, 0, 0]}]}]), "cannot be read"),
        (json.dumps([{"cameras": [LEFT, {**RIGHT, "image_prefix": "up/"}]}]), "for cameras left, up, but the folders"),
        (json.dumps([{"cameras": [LEFT]}]), "for cameras left, but the folders"),
        ("[]", "for cameras none"),
    ],
)
def test_files_that_do_not_describe_this_rig(tmp_path, content, message):
    path = tmp_path / "rig_config.json"
    path.write_text(content)
    with pytest.raises(ColmapError, match=message) as raised:
        read_rig(path, ["left", "right"])
    assert "\n" not in str(raised.value)
    with pytest.raises(ColmapError, match="no file"):
        read_rig(tmp_path / "none.json", ["left", "right"])


def test_poses_of_only_some_cameras_are_refused(tmp_path):
    path = tmp_path / "rig_config.json"
    path.write_text(json.dumps([{"cameras": [LEFT, RIGHT, {"image_prefix": "up/"}]}]))
    with pytest.raises(ColmapError, match="those of all, or of none"):
        read_rig(path, ["left", "right", "up"])
