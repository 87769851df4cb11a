"""disk undistort on a reconstruction of a scene: files, masks, transforms.json, changes, and what it refuses."""

from __future__ import annotations

import contextlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scene_folder import SceneFolder

from disk.cli.main import main
from disk.errors import ArtifactError, ColmapError, DiskError, ImageError, PartialFailureError
from disk.pipeline import reconstruct as stage
from disk.pipeline.summary import read_summary
from disk.pipeline.undistort import Undistorted, UndistortOptions, undistort
from disk.storage.transforms import read_transforms
from synthetic_scene import HEIGHT, WIDTH, make_scene

NAMES = ["a", "b", "sub/c"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SceneFolder:
    folder = SceneFolder(tmp_path, make_scene(NAMES, points=100), monkeypatch)
    folder.run(single_camera=True)
    return folder


def test_the_folder_that_splatting_programs_open(folder: SceneFolder, tmp_path: Path) -> None:
    import pycolmap

    result = undistort(folder.out, tmp_path / "splat")
    assert (result.images, result.masks, result.failed) == (3, 0, {})
    assert sorted(p.name for p in (tmp_path / "splat").iterdir() if p.name[0] != ".") == ["images", "sparse"]
    model = pycolmap.Reconstruction(tmp_path / "splat" / "sparse" / "0")
    assert {camera.model_name for camera in model.cameras.values()} == {"PINHOLE"}
    for image in model.images.values():
        camera = model.camera(image.camera_id)
        assert Image.open(tmp_path / "splat" / "images" / image.name).size == (camera.width, camera.height)
    before = pycolmap.Reconstruction(folder.out / "sparse" / "0")
    assert len(model.points3D) == len(before.points3D)
    assert model.compute_mean_reprojection_error() < 1.5 * before.compute_mean_reprojection_error() + 1e-3


def test_masks_and_transforms(folder: SceneFolder, tmp_path: Path) -> None:
    masks, out = tmp_path / "masks", tmp_path / "splat"
    masks.mkdir()
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[:, : WIDTH // 2] = 0  # where the photos are red
    Image.fromarray(mask).save(masks / "a.jpg.png")
    result = undistort(folder.out, out, UndistortOptions(mask_dir=masks, transforms=True))
    assert result.masks == 1
    seen, photo = np.asarray(Image.open(out / "masks/a.jpg.png")), np.asarray(Image.open(out / "images/a.jpg"))
    assert seen.shape == photo.shape[:2]
    assert ((photo[..., 0] > 150) == (seen == 0)).mean() > 0.99
    frames = {frame.path: frame for frame in read_transforms(out / "transforms.json")}
    assert set(frames) == {"images/a.jpg", "images/b.jpg", "images/sub/c.jpg"}
    import pycolmap

    model = pycolmap.Reconstruction(out / "sparse" / "0")
    for image in model.images.values():
        frame = frames[f"images/{image.name}"]
        assert np.allclose(frame.R, image.cam_from_world().rotation.matrix())
        assert np.allclose(frame.t, image.cam_from_world().translation)
        assert np.allclose(frame.params, model.camera(image.camera_id).params)
    content = json.loads((out / "transforms.json").read_text())
    assert [frame.get("mask_path") for frame in content["frames"]] == ["masks/a.jpg.png", None, None]
    assert (out / content["ply_file_path"]).read_bytes().startswith(b"ply")


def test_finished_images_are_kept_and_changes_are_followed(folder: SceneFolder, tmp_path: Path) -> None:
    out = tmp_path / "splat"

    def inodes() -> list[int]:
        return [(out / "images" / f"{name}.jpg").stat().st_ino for name in NAMES]

    undistort(folder.out, out)
    (out / "images" / "a.jpg").unlink()
    before = [(out / "images" / f"{name}.jpg").stat().st_ino for name in NAMES[1:]]
    undistort(folder.out, out)
    assert inodes()[1:] == before
    photo = folder.photos / "a.jpg"
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 7, np.uint8)).save(photo)
    undistort(folder.out, out)
    assert np.asarray(Image.open(out / "images" / "a.jpg")).max() < 12
    undistort(folder.out, out, UndistortOptions(max_size=320))
    assert max(Image.open(out / "images" / "b.jpg").size) == 320
    assert not (out / "masks").exists()


def test_the_geo_reference_is_kept(folder: SceneFolder, tmp_path: Path) -> None:
    there, copied = (place / "sparse" / "0" / "georegistration.json" for place in (folder.out, tmp_path / "splat"))
    for content in ("{}", '{"format": "disk georegistration 1"}'):
        there.write_text(content)
        undistort(folder.out, tmp_path / "splat")
        assert copied.read_text() == content
    there.unlink()
    undistort(folder.out, tmp_path / "splat")
    assert not copied.exists()


def test_deleted_and_replaced_images_are_skipped_and_named(
    folder: SceneFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder.photos / "a.jpg").unlink()
    Image.new("RGB", (64, 48)).save(folder.photos / "b.jpg")
    with pytest.raises(PartialFailureError, match=r"^2 of 3 images could not be .*: a\.jpg, b\.jpg;") as partial:
        undistort(folder.out, tmp_path / "splat")
    result = partial.value.result
    assert (result.folder, result.images, list(result.failed)) == (str(tmp_path / "splat"), 1, ["a.jpg", "b.jpg"])
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        f"not undistorted: {reason}" for reason in result.failed.values()
    ]
    assert "b.jpg is 64 x 48" in result.failed["b.jpg"]
    import pycolmap

    model = pycolmap.Reconstruction(tmp_path / "splat" / "sparse" / "0")
    assert [image.name for image in model.images.values()] == ["sub/c.jpg"]
    (folder.photos / "sub" / "c.jpg").unlink()
    with pytest.raises(ImageError, match="none of the model's images"):
        undistort(folder.out, tmp_path / "splat")


def test_mistakes(folder: SceneFolder, tmp_path: Path) -> None:
    with pytest.raises(ColmapError, match="no such folder"):
        undistort(tmp_path / "nowhere", tmp_path / "splat")
    with pytest.raises(DiskError, match="max_size"):
        undistort(folder.out, tmp_path / "splat", UndistortOptions(max_size=-1))
    with pytest.raises(ArtifactError, match="would be taken for photos"):
        undistort(folder.out, folder.photos / "splat")
    with pytest.raises(ArtifactError, match="is the model itself"):
        undistort(folder.out, folder.out)
    (tmp_path / "splat" / "images").mkdir(parents=True)
    (tmp_path / "splat" / "images" / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(ArtifactError, match="was not made by `disk undistort`"):
        undistort(folder.out, tmp_path / "splat")
    assert (tmp_path / "splat" / "images" / "mine.jpg").read_bytes() == b"mine"
    assert undistort(folder.out, tmp_path / "splat", UndistortOptions(overwrite=True)).images == 3
    folder.photos.rename(tmp_path / "moved")
    with pytest.raises(ImageError, match="name the folder with images"):
        undistort(folder.out, tmp_path / "other")
    assert undistort(folder.out, tmp_path / "other", UndistortOptions(images=tmp_path / "moved")).images == 3


def test_reconstruct_undistorts_as_well(folder: SceneFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    result = folder.run(single_camera=True, undistort=True)
    assert (folder.out / "undistorted" / "sparse" / "0" / "cameras.bin").is_file()
    assert len(list((folder.out / "undistorted" / "images").rglob("*.jpg"))) == result.registered == 3

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("an image is undistorted again")

    import disk.colmap.undistortion as room

    monkeypatch.setattr(room, "_undistorted", refuse)
    folder.run(single_camera=True, undistort=True)
    folder.out = folder.photos / "out"
    with pytest.raises(ArtifactError, match="would be taken for photos"):
        folder.run(single_camera=True, undistort=True)


@pytest.mark.parametrize("keep_going", [False, True])
def test_reconstruct_completes_the_summary_if_images_cannot_be_undistorted(
    folder: SceneFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep_going: bool
) -> None:
    def partly(*arguments: Any) -> None:
        raise PartialFailureError("1 of 3 images could not be undistorted: a.jpg; the rest is done")

    monkeypatch.setattr(stage, "undistort", partly)
    folder.out = tmp_path / "another"
    expected = contextlib.nullcontext() if keep_going else pytest.raises(PartialFailureError, match="undistorted: a")
    with expected:
        folder.run(single_camera=True, undistort=True, keep_going=keep_going)
    summary = read_summary(folder.out)
    assert "undistort" in summary.seconds
    assert (folder.out / "report.html").stat().st_mtime >= (folder.out / "summary.json").stat().st_mtime


def test_the_command_prints_the_record_of_a_partial_failure(
    folder: SceneFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = undistort

    def partly(*arguments: Any) -> None:
        raise PartialFailureError("1 of 3 images could not be undistorted: a.jpg", whole(*arguments))

    monkeypatch.setattr("disk.pipeline.undistort.undistort", partly)
    assert main(["undistort", str(folder.out), str(tmp_path / "splat"), "--json"]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["images"] == 3
    assert printed.err.splitlines()[-1] == "disk undistort: 1 of 3 images could not be undistorted: a.jpg"


def test_the_command_prints_the_record(folder: SceneFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["undistort", str(folder.out), str(tmp_path / "splat"), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {field.name for field in fields(Undistorted)}
    assert main(["undistort", str(folder.out), str(tmp_path / "splat")]) == 0
    assert capsys.readouterr().out.startswith("3 images of up to ")
