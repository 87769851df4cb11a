"""Known cameras: parameters, a file or another model; kept or refined; contradictions with the images are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from scene_folder import SceneFolder

from disk.errors import ArtifactError, ColmapError, DiskError
from disk.pipeline.reconstruct import Reconstruction
from synthetic_scene import FOCAL, HEIGHT, WIDTH, make_scene

NAMES = ["a", "b", "c", "sub/d"]
TRUE = f"{FOCAL},{WIDTH / 2},{HEIGHT / 2}"
NEAR = f"{1.05 * FOCAL},{WIDTH / 2},{HEIGHT / 2}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SceneFolder:
    return SceneFolder(tmp_path, make_scene(NAMES, points=150), monkeypatch)


def focal_lengths(result: Reconstruction) -> list[float]:
    return [camera["focal_length"] for camera in result.models[0]["cameras"]]


@pytest.mark.parametrize("mapper", ["incremental", "global"])
def test_fixed_intrinsics_stay_as_they_are(folder: SceneFolder, mapper: str) -> None:
    known = {"camera_model": "simple-pinhole", "single_camera": True, "camera_params": NEAR, "mapper": mapper}
    assert focal_lengths(folder.run(**known, fix_intrinsics=True)) == [pytest.approx(1.05 * FOCAL)]
    folder.out = folder.out.with_name("refined")
    assert focal_lengths(folder.run(**known)) == [pytest.approx(FOCAL, rel=1e-2)]


def test_the_cameras_of_another_model(folder: SceneFolder) -> None:
    known = {"camera_model": "simple-pinhole", "single_camera": True, "camera_params": TRUE, "fix_intrinsics": True}
    first = folder.run(**known)
    assert first.registered == 4
    model, folder.out = folder.out, folder.out.with_name("second")
    result = folder.run(cameras=model, fix_intrinsics=True)
    assert focal_lengths(result) == [FOCAL]
    assert result.models[0]["cameras"][0]["images"] == 4, "they share a camera, as in the model"


@pytest.mark.parametrize("kind", ["txt", "bin"])
def test_one_camera_from_a_file(folder: SceneFolder, tmp_path: Path, kind: str) -> None:
    import pycolmap

    path = tmp_path / f"cameras.{kind}"
    model = pycolmap.Reconstruction()
    params = [FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2, 0.0, 0.0, 0.0, 0.0]
    model.add_camera_with_trivial_rig(
        pycolmap.Camera(model="OPENCV", width=WIDTH, height=HEIGHT, params=params, camera_id=3)
    )
    (tmp_path / "all").mkdir()
    (model.write_text if kind == "txt" else model.write_binary)(tmp_path / "all")
    (tmp_path / "all" / path.name).rename(path)
    result = folder.run(cameras=path, fix_intrinsics=True)
    assert focal_lengths(result) == [FOCAL]
    assert result.models[0]["cameras"][0]["model"] == "OPENCV"


def test_options_of_earlier_versions_are_continued(folder: SceneFolder) -> None:
    folder.run(single_camera=True)
    assert "fix_intrinsics" not in (folder.out / "options.json").read_text()
    with pytest.raises(ArtifactError, match="fix_intrinsics unset there, True now"):
        folder.run(single_camera=True, fix_intrinsics=True)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"camera_params": "700,320"}, "2 numbers, but the camera model simple-radial has 4"),
        ({"camera_params": "f,320,240,0"}, "must be comma-separated numbers"),
        ({"camera_params": "700,3200,2400,0"}, "outside a.jpg, which is 640 x 480"),
        ({"cameras": Path("nowhere")}, "no such file"),
        ({"cameras": Path("."), "camera_params": TRUE}, "both define the cameras"),
        ({"cameras": Path("."), "single_camera": True}, "leave those options out"),
    ],
)
def test_mistakes_are_refused_before_the_work(folder: SceneFolder, mistake: dict[str, Any], message: str) -> None:
    with pytest.raises(DiskError, match=message):
        folder.run(**mistake)
    assert folder.detected == []


def test_images_that_do_not_fit_their_cameras(folder: SceneFolder, tmp_path: Path) -> None:
    folder.run(single_camera=True)
    model, folder.out = folder.out, tmp_path / "second"
    Image.new("RGB", (320, 240)).save(folder.photos / "b.jpg")
    before = list(folder.detected)
    with pytest.raises(ColmapError, match=r"b\.jpg is 320 x 240 but its camera 640 x 480"):
        folder.run(cameras=model)
    with pytest.raises(ColmapError, match=r"b\.jpg is 320 x 240 and a\.jpg 640 x 480"):
        folder.run(camera_params=f"{TRUE},0")
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder.photos / "b.jpg")
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder.photos / "new.jpg")
    with pytest.raises(ColmapError, match=r"no camera for 1 image: new\.jpg"):
        folder.run(cameras=model)
    assert folder.detected == before
    (tmp_path / "cameras.txt").write_text("junk")
    with pytest.raises(ColmapError, match=r"cameras\.txt"):
        folder.run(cameras=tmp_path / "cameras.txt")
