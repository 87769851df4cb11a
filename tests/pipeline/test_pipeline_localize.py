"""disk localize on a scene with known cameras: photos of it, photos of something else, resuming."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from scene_folder import SceneFolder

from disk.cli.main import main
from disk.errors import ArtifactError, ColmapError, DiskError, ImageError, PartialFailureError
from disk.geometry.pose import align_similarity, rotation_error
from disk.pipeline import localize as stage
from disk.pipeline.localize import Localization, LocalizeOptions, localize, read_poses
from synthetic_scene import FOCAL, Scene, make_scene, write_features, write_photos

NAMES = ["a", "b", "c", "new", "other", "sub/d"]
MAPPED = ["a", "b", "c", "sub/d"]


def part(scene: Scene, names: list[str]) -> Scene:
    return replace(scene, names=names)


class Place:
    """A model of four photos of a scene, and photos to localize: `new` of the same scene, `other` of another."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scene = make_scene(NAMES, points=200)
        self.scene.owners["other"] = np.full(len(self.scene.owners["other"]), -1)
        self.model, self.queries, self.out = folder / "out", folder / "queries", folder / "located"
        mapped = SceneFolder(folder, part(self.scene, MAPPED), monkeypatch)
        mapped.run(single_camera=True)
        write_photos(part(self.scene, ["new", "other"]), self.queries)
        self.detected: list[list[str]] = []
        monkeypatch.setattr(stage, "detect", self.detect)
        monkeypatch.setattr(stage, "load", lambda *arguments: None)
        monkeypatch.setattr(stage, "weights_hash", lambda model: "synthetic")

    def detect(self, artifacts: Path, images: Path, options: Any) -> None:
        there = h5py.File(artifacts / "keypoints.h5").keys() if (artifacts / "keypoints.h5").exists() else ()
        todo = [name for name in ("new", "other") if name not in there and (self.queries / f"{name}.jpg").exists()]
        self.detected.append(todo)
        if todo:
            write_features(self.scene, artifacts, todo)

    def run(self, **options: Any) -> Localization:
        return localize(self.model, self.queries, self.out, LocalizeOptions(device="cpu", **options))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


@pytest.mark.parametrize(("camera", "origin"), [("auto", "model"), ("unknown", "unknown")])
def test_a_photo_is_where_it_was_taken(place: Place, camera: str, origin: str) -> None:
    import pycolmap

    result = place.run(camera=camera)
    assert (result.found, result.localized, result.failed) == (1, 2, {})
    photo = result.photos["new.jpg"]
    assert photo.camera_from == origin
    assert photo.inliers >= 195
    assert photo.error < 0.05
    assert set(photo.images) == {"a.jpg", "b.jpg", "c.jpg", "sub/d.jpg"}
    mapped = pycolmap.Reconstruction(place.model / "sparse" / "0")
    centres = {mapped.image(i).name.removesuffix(".jpg"): mapped.image(i).projection_center() for i in mapped.images}
    s, R, t = align_similarity(np.array([centres[name] for name in MAPPED]), place.scene.centres(MAPPED))
    assert np.abs(s * R @ np.array(photo.centre) + t - place.scene.centres(["new"])[0]).max() < 2e-3
    w, x, y, z = photo.rotation
    own = pycolmap.Rotation3d(np.array([x, y, z, w])).matrix()
    assert rotation_error(own @ R.T, place.scene.rotations["new"]) < 0.02
    assert np.allclose(-own.T @ photo.translation, photo.centre)
    assert photo.camera["params"][0] == pytest.approx(FOCAL, rel=1e-3)
    assert 0 <= photo.position_sigma < 0.01


def test_the_model_of_found_photos_sees_the_points_of_the_given_model(place: Place) -> None:
    import pycolmap

    place.run()
    own, model = (pycolmap.Reconstruction(folder / "sparse" / "0") for folder in (place.out, place.model))
    assert [image.name for image in own.images.values()] == ["new.jpg"]
    assert len(own.points3D) > 195
    assert all(np.allclose(point.xyz, model.points3D[number].xyz) for number, point in own.points3D.items())
    own.update_point_3d_errors()
    assert own.compute_mean_reprojection_error() < 0.05


def test_a_photo_of_something_else_is_not_found(place: Place) -> None:
    photo = place.run().photos["other.jpg"]
    assert not photo.found
    assert photo.rotation is None
    assert "match" in photo.reason
    assert read_poses(place.out).photos["other.jpg"] == photo


def test_finished_photos_are_not_localized_again(place: Place) -> None:
    first = place.run()
    again = place.run()
    assert again.localized == 0
    assert again == replace(first, localized=0)
    with pytest.raises(ArtifactError, match=r"top_k 10 there, 3 now"):
        place.run(top_k=3)
    assert place.run(top_k=3, overwrite=True).localized == 2
    (place.queries / "other.jpg").unlink()
    assert list(place.run(top_k=3).photos) == ["new.jpg"]


def test_an_interruption_costs_one_photo(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    original = stage.Locator.__call__

    def interrupted(self: Any, file: Any) -> Any:
        if file.name == "other":
            raise KeyboardInterrupt
        return original(self, file)

    with monkeypatch.context() as patch:
        patch.setattr(stage.Locator, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            place.run()
    assert place.run().localized == 1


def test_another_model_is_followed(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.run()
    import pycolmap

    folder = place.model / "sparse" / "0"
    model = pycolmap.Reconstruction(folder)
    model.transform(pycolmap.Sim3d(2.0, pycolmap.Rotation3d(), np.zeros(3)))
    model.write(folder)
    before = np.array(read_poses(place.out).photos["new.jpg"].centre)
    result = place.run()
    assert result.localized == 2
    assert np.allclose(result.photos["new.jpg"].centre, 2 * before, atol=1e-3)


def test_a_damaged_photo_is_named_and_the_others_are_localized(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.queries / "broken.jpg").write_bytes(b"no image")

    def detect(*arguments: Any) -> None:
        place.detect(*arguments)
        raise PartialFailureError("1 of 3 images could not be read: broken.jpg")

    monkeypatch.setattr(stage, "detect", detect)
    with pytest.raises(PartialFailureError, match=r"broken\.jpg") as failure:
        place.run()
    result = read_poses(place.out)
    assert failure.value.result == result
    assert result.found == 1
    assert list(result.failed) == ["broken.jpg"]


def test_a_camera_that_is_not_the_models_is_noticed(place: Place) -> None:
    """The photo has the same size as the model's photos, but another focal length."""
    middle = np.array([319.5, 239.5])
    keypoints = place.scene.keypoints["new"]
    place.scene.keypoints["new"] = ((keypoints - middle) * 0.6 + middle).astype(np.float32)
    photo = place.run().photos["new.jpg"]
    assert photo.camera_from == "unknown"
    assert photo.camera["params"][0] == pytest.approx(0.6 * FOCAL, rel=1e-3)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ({"camera": "model", "focal_length": 700.0}, "leave one out"),
        ({"focal_length": -1.0}, "more than 0"),
        ({"max_error": 0.0}, "more than 0"),
        ({"top_k": 0}, "at least 1"),
        ({"ray": "local"}, "this machine only"),
        ({"rt": 2.0}, "at most 1"),
    ],
)
def test_mistakes_are_refused_before_the_work(place: Place, mistake: dict[str, Any], message: str) -> None:
    with pytest.raises(DiskError, match=message):
        place.run(**mistake)
    assert not place.out.exists()


def test_a_folder_without_a_model_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ColmapError, match="no such folder"):
        localize(place.model / "nowhere", place.queries, place.out)
    with pytest.raises(ColmapError, match="it needs sparse/0"):
        localize(place.queries, place.queries, place.out)
    with pytest.raises(ArtifactError, match="not made by `disk localize`"):
        localize(place.model, place.queries, place.model)
    with pytest.raises(ImageError, match="does not exist"):
        localize(place.model, place.queries / "nowhere", place.out)
    monkeypatch.setattr(stage, "weights_hash", lambda model: "others")
    with pytest.raises(ArtifactError, match="other weights"):
        place.run()


def test_a_model_of_other_features_is_refused(place: Place) -> None:
    with h5py.File(place.model / "artifacts" / "keypoints.h5", "r+") as file:
        file["a"][0] += 5
    with pytest.raises(ColmapError, match="not made from the current features"):
        place.run()


def test_the_command_prints_the_record(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["localize", str(place.model), str(place.queries), str(place.out), "--device", "cpu"]
    assert main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed) == {field.name for field in fields(Localization)}
    assert printed["photos"]["new.jpg"]["found"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "1 of 2 photos localized" in out
    assert "not localized: other.jpg" in out
    Image.new("RGB", (64, 48)).save(place.queries / "x.txt", "PNG")  # not an image by its name: ignored
    assert main([*arguments, "--top-k", "0"]) == 2
