"""disk triangulate on a scene with known points: a COLMAP model, a transforms.json, correct and wrong poses."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from disk.cli.main import main
from disk.colmap.triangulation import KnownPose, epipolar_errors
from disk.datasets.import_colmap import ImportOptions, import_colmap
from disk.errors import ArtifactError, ColmapError, DatasetError, ImageError, PartialFailureError
from disk.pipeline import triangulate as stage
from disk.pipeline.map import MapOptions, map_models
from disk.pipeline.reconstruct import reconstruct
from disk.pipeline.triangulate import TriangulateOptions, Triangulation, read_triangulation, triangulate
from disk.pipeline.undistort import undistort
from disk.storage.forget import known_images
from synthetic_scene import FOCAL, HEIGHT, WIDTH, make_scene, write_features, write_photos

NAMES = ["a", "b", "c", "sub/d"]


class Place:
    """Photos of a scene, and their known poses as a COLMAP model without points and as a transforms.json."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scene = make_scene(NAMES, points=150)
        self.photos = write_photos(self.scene, folder / "photos")
        self.out, self.folder = folder / "out", folder
        self.detected: list[list[str]] = []
        monkeypatch.setattr(stage, "detect", self.detect)

    def detect(self, artifacts: Path, images: Path, options: Any, only: set[str]) -> None:
        todo = sorted(only - known_images(artifacts))
        self.detected.append(todo)
        if todo:
            write_features(self.scene, artifacts, todo)

    def model(self, names: list[str] = NAMES, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Path:
        import pycolmap

        model = pycolmap.Reconstruction()
        params = [FOCAL, WIDTH / 2, HEIGHT / 2]
        camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=size[0], height=size[1], params=params, camera_id=7)
        model.add_camera_with_trivial_rig(camera)
        for number, name in enumerate(names):
            image = pycolmap.Image(name=f"{name}.jpg", camera_id=7, image_id=30 - number)
            rotation = pycolmap.Rotation3d(self.scene.rotations[name])
            model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(rotation, self.scene.translations[name]))
        (self.folder / "model").mkdir(exist_ok=True)
        model.write(self.folder / "model")
        return self.folder / "model"

    def transforms(self, prefix: str = "photos/", flip: bool = True, **camera: Any) -> Path:
        frames = []
        for name in NAMES:
            pose = np.eye(4)
            pose[:3, :3] = self.scene.rotations[name].T
            pose[:3, 3] = self.scene.centres([name])[0]
            pose = pose @ np.diag([1, -1, -1, 1]) if flip else pose
            frames.append({"file_path": f"{prefix}{name}.jpg", "transform_matrix": pose.tolist()})
        content = {"fl_x": FOCAL, "cx": WIDTH / 2, "cy": HEIGHT / 2, "w": WIDTH, "h": HEIGHT, "frames": frames}
        path = self.folder / "transforms.json"
        path.write_text(json.dumps(content | camera))
        return path

    def run(self, model: Path, **options: Any) -> Triangulation:
        return triangulate(model, self.photos, self.out, TriangulateOptions(device="cpu", **options))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def cloud(points: int = 150) -> np.ndarray:
    """The scene's points, as `make_scene` draws them."""
    return np.random.default_rng(0).uniform(-1, 1, (points, 3))


def check_true(place: Place) -> None:
    """The points equal those of the scene without any alignment, and the poses are unchanged."""
    import pycolmap

    model = pycolmap.Reconstruction(place.out / "sparse" / "0")
    found = np.array([point.xyz for point in model.points3D.values()])
    assert len(found) >= 149
    away = np.linalg.norm(found[:, None] - cloud()[None], axis=2).min(axis=1)
    assert away.max() < 1e-3
    for image in model.images.values():
        name = image.name.removesuffix(".jpg")
        assert np.allclose(image.cam_from_world().rotation.matrix(), place.scene.rotations[name])
        assert np.allclose(image.cam_from_world().translation, place.scene.translations[name])
        assert model.camera(image.camera_id).params[0] == FOCAL


def test_points_of_a_colmap_model_without_points(place: Place) -> None:
    result = place.run(place.model())
    check_true(place)
    assert result.agreement > 0.99
    assert result.epipolar_error < 0.01
    assert result.doubtful == []
    assert set(result.by_image) == {f"{name}.jpg" for name in NAMES}
    assert (result.model.registered, result.model.unconnected, result.failed) == (4, [], {})
    assert result.model.reprojection_error < 0.01
    assert "100% of the verified matches agree" in result.verdict
    assert result == read_triangulation(place.out)


@pytest.mark.parametrize("prefix", ["photos/", "./photos/", "images/", "", "/elsewhere/images/"])
def test_points_of_a_transforms_json(place: Place, prefix: str) -> None:
    assert place.run(place.transforms(prefix)).agreement > 0.99
    check_true(place)


def test_poses_of_another_convention_are_noticed(place: Place) -> None:
    try:
        verdict = place.run(place.transforms(flip=False)).verdict
    except ColmapError as error:  # there may be no point at all
        verdict = str(error)
    assert "poses and images do not agree" in verdict
    place.out = place.folder / "other"
    result = place.run(place.transforms(fl_x=0.8 * FOCAL), max_error=1.0)
    assert result.agreement < 0.8
    assert "imprecise" in result.verdict


def test_one_wrong_pose_is_named(place: Place) -> None:
    place.scene.translations["b"] += [0.5, 0.5, 0]
    result = place.run(place.model(), max_error=2.0)
    assert "b.jpg" in result.doubtful
    assert result.by_image["b.jpg"] == min(result.by_image.values()) < 0.2


def test_a_second_run_does_nothing_and_another_model_is_followed(place: Place) -> None:
    model = place.model()
    first = place.run(model)
    before = (place.out / "sparse/0/points3D.bin").stat().st_ino
    assert place.run(model) == first
    assert (place.out / "sparse/0/points3D.bin").stat().st_ino == before
    assert place.detected == [sorted(NAMES), []]
    for name in NAMES:
        place.scene.translations[name] = 2 * place.scene.translations[name]
    place.scene.rotations["a"] = place.scene.rotations["a"].copy()
    place.run(place.model())
    assert (place.out / "sparse/0/points3D.bin").stat().st_ino != before
    with pytest.raises(ArtifactError, match=r"n auto there, 100 now"):
        place.run(model, n=100)


def test_images_without_pose_are_not_used_and_poses_without_image_are_named(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    result = place.run(place.model(["a", "b", "c"]))
    assert place.detected[0] == ["a", "b", "c"]
    assert result.model.registered == 3
    (place.photos / "a.jpg").unlink()
    place.out = place.folder / "other"
    with pytest.raises(PartialFailureError, match=r"1 image of .* missing: a\.jpg") as failure:
        place.run(place.model())
    result = read_triangulation(place.out)
    assert failure.value.result == result
    assert list(result.failed) == ["a.jpg"]
    assert result.model.registered == 3


def test_mistakes_are_refused_before_the_work(place: Place) -> None:
    with pytest.raises(
        ColmapError, match=r"4 images of another size than in .*: a\.jpg is 640 x 480 but its camera 64 x 48"
    ):
        place.run(place.model(size=(64, 48)))
    with pytest.raises(ColmapError, match="no such folder or file"):
        place.run(place.folder / "nowhere")
    with pytest.raises(ColmapError, match="neither a COLMAP model folder"):
        place.run(place.photos / "a.jpg")
    with pytest.raises(ColmapError, match="no COLMAP model"):
        place.run(place.photos)
    Image.new("RGB", (8, 8)).save(place.folder / "x.png")
    model = place.model()
    with pytest.raises(ImageError, match="0 of the 4 images"):
        triangulate(model, place.folder / "x.png", place.out)
    assert place.detected == []


def test_the_output_is_a_model_for_the_other_commands(place: Place) -> None:
    with pytest.raises(DatasetError, match="disk triangulate"):
        import_colmap(place.model(), ImportOptions(images=place.photos, out=place.folder / "data"))
    place.run(place.model())
    options = ImportOptions(images=place.photos, out=place.folder / "data", max_overlap=1.0)
    assert len(import_colmap(place.out, options).images) >= 3
    assert undistort(place.out, place.folder / "splat").images == 4


def test_other_commands_do_not_move_the_known_poses(place: Place) -> None:
    place.run(place.model())
    there = {path.name: path.read_bytes() for path in (place.out / "sparse" / "0").iterdir()}
    with pytest.raises(ArtifactError, match=r"was made by `disk triangulate`; use another output, or overwrite=True"):
        reconstruct(place.photos, place.out)
    with pytest.raises(ArtifactError, match="has the known poses of `disk triangulate`"):
        map_models(place.out, place.photos)
    assert {path.name: path.read_bytes() for path in (place.out / "sparse" / "0").iterdir()} == there
    assert read_triangulation(place.out).model.registered == len(NAMES)
    assert map_models(place.out, place.photos, MapOptions(remap=True)).registered == len(NAMES)
    assert not (place.out / "agreement.json").exists()  # it was of the given poses
    with pytest.raises(ColmapError, match="run `disk triangulate` first"):
        read_triangulation(place.out)


def test_the_command_prints_the_record(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["triangulate", str(place.model()), str(place.photos), str(place.out), "--device", "cpu"]
    assert main([*arguments, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {field.name for field in fields(Triangulation)}
    assert main(arguments) == 0
    assert "of the verified matches agree" in capsys.readouterr().out


def test_epipolar_errors_by_hand() -> None:
    """Cameras side by side: epipolar lines are rows, so the error is the difference between rows."""
    from disk.colmap.cameras import KnownCamera

    camera = KnownCamera("SIMPLE_PINHOLE", 640, 480, (500.0, 320.0, 240.0))
    first = KnownPose(camera, np.eye(3), np.zeros(3))
    second = KnownPose(camera, np.eye(3), np.array([1.0, 0, 0]))
    p0 = np.array([[100.0, 50], [300, 200]])
    assert epipolar_errors(first, second, p0, p0 + np.array([30, 0])) == pytest.approx([0, 0])
    assert epipolar_errors(first, second, p0, p0 + np.array([30, 3])) == pytest.approx([3, 3])
    assert np.isnan(epipolar_errors(first, first, p0, p0)).all()
