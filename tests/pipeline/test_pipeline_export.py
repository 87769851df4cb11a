"""disk export: every format from the same artifacts, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from disk.cli.main import main
from disk.colmap.database import open_database
from disk.errors import ArtifactError, ColmapError, DiskError, ImageError
from disk.images.listing import list_images
from disk.pipeline.export import ExportOptions, export
from disk.storage.download import file_hash
from synthetic_scene import Scene, full_disk, make_scene, write_features, write_matches, write_photos


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Artifacts in tmp_path/artifacts, photos in tmp_path/photos."""
    scene = make_scene(["a", "sub/b", "sub/c"], points=30)
    write_features(scene, tmp_path / "artifacts")
    write_matches(scene, tmp_path / "artifacts")
    write_photos(scene, tmp_path / "photos", ".JPG")
    return scene


def run(tmp_path: Path, **options: object) -> Path:
    defaults: dict[str, object] = {"database_path": tmp_path / "database.db"}
    chosen = ExportOptions(**(defaults | options))  # type: ignore[arg-type]
    return export(tmp_path / "artifacts", tmp_path / "photos", chosen)


def test_colmap(scene: Scene, tmp_path: Path) -> None:
    path = run(tmp_path, camera_model="opencv", single_camera=True)
    with open_database(path) as database:
        assert [image.name for image in database.read_all_images()] == ["a.JPG", "sub/b.JPG", "sub/c.JPG"]
        (camera,) = database.read_all_cameras()
        assert camera.model_name == "OPENCV"
        assert np.array_equal(database.read_keypoints(1)[:, :2], scene.keypoints["a"] + np.float32(0.5))
        assert np.array_equal(database.read_matches(1, 3).T, scene.matches["a", "sub/c"])


def test_artifacts_of_the_original(scene: Scene, tmp_path: Path) -> None:
    """The original writes no attributes, and writes matches as uint16 on request."""
    artifacts = tmp_path / "artifacts"
    with h5py.File(artifacts / "keypoints.h5", "a") as file:
        for name in scene.names:
            file[name].attrs.clear()
        file.attrs.clear()
    (artifacts / "scores.h5").unlink()
    (artifacts / "matches.h5").unlink()
    with h5py.File(artifacts / "matches.h5", "w") as file:
        file["a/sub|b"] = scene.matches["a", "sub/b"].astype(np.uint16)
    with open_database(run(tmp_path)) as database:
        assert np.array_equal(database.read_matches(1, 2).T, scene.matches["a", "sub/b"])
        assert database.num_matched_image_pairs() == 1


def test_an_existing_database_is_refused(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "database.db").write_text("precious")
    with pytest.raises(ColmapError, match=r"database\.db exists"):
        run(tmp_path)
    with pytest.raises(ColmapError, match="not a database and is not overwritten"):
        run(tmp_path, overwrite=True)
    assert (tmp_path / "database.db").read_text() == "precious"
    (tmp_path / "database.db").unlink()
    run(tmp_path)
    with open_database(run(tmp_path, overwrite=True)) as database:
        assert database.num_images() == 3


def test_imw_and_hloc(scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    out = run(tmp_path, format="imw")
    assert out == tmp_path / "artifacts" / "imw"
    with h5py.File(out / "sub" / "matches.h5") as file:
        assert np.array_equal(file["c-b"], scene.matches["sub/b", "sub/c"][::-1])
    assert "2 pairs of images in different folders" in caplog.text
    out = run(tmp_path, format="hloc", output=tmp_path / "hloc")
    with h5py.File(out / "features.h5") as file:
        assert np.array_equal(file["sub/b.JPG/keypoints"], scene.keypoints["sub/b"])
        assert file["sub/b.JPG/image_size"][()].tolist() == [640, 480]
    assert (out / "pairs.txt").read_text().splitlines()[0] == "a.JPG sub/b.JPG"
    for options in ({"format": "imw"}, {"format": "hloc", "output": tmp_path / "hloc"}):
        with pytest.raises(ArtifactError, match=r"exists; choose another output"):
            run(tmp_path, **options)
        run(tmp_path, **options, overwrite=True)


def test_images_that_do_not_fit_the_features(scene: Scene, tmp_path: Path) -> None:
    Image.new("RGB", (320, 240)).save(tmp_path / "photos" / "a.JPG")
    with pytest.raises(ImageError, match=r"a\.JPG is 320 x 240, but was 640 x 480"):
        run(tmp_path)
    (tmp_path / "photos" / "a.JPG").unlink()
    with pytest.raises(ImageError, match=r"has no image 'a', which has features \(1 missing\)"):
        run(tmp_path)
    assert not (tmp_path / "database.db").exists()


def test_images_without_features_are_named(scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.new("RGB", (320, 240)).save(tmp_path / "photos" / "new.jpg")
    with open_database(run(tmp_path)) as database:
        assert database.num_images() == 3
    assert "that have no features: new" in caplog.text


def test_contradictions_and_unknown_models(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="contradict"):
        run(tmp_path, single_camera=True, camera_per="folder")
    with pytest.raises(ColmapError, match="choose from"):
        run(tmp_path, camera_model="box")


def test_the_command_line(scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Called as the original's h5_to_db.py; mistakes give one line and exit code 2."""
    artifacts, photos, database = (str(tmp_path / name) for name in ("artifacts", "photos", "x.db"))
    command = ["export", artifacts, photos, "--database-path", database, "--image-extension", ".jpg"]
    command += ["--single-camera", "--camera-model", "simple-pinhole"]
    assert main(command) == 0
    with open_database(Path(database)) as opened:
        assert [camera.model_name for camera in opened.read_all_cameras()] == ["SIMPLE_PINHOLE"]
    capsys.readouterr()
    for arguments, message in [
        (command[1:], "exists"),
        ([str(tmp_path / "none"), photos], "no keypoints.h5"),
        ([artifacts, str(tmp_path / "none"), "--database-path", str(tmp_path / "y.db")], "does not exist"),
        ([artifacts, photos, "--database-path", f"{database}/y.db"], "x.db"),
    ]:
        assert main(["export", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_no_matches_yet(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "matches.h5").unlink()
    with pytest.raises(ArtifactError, match="run `disk match` first"):
        run(tmp_path)


@pytest.mark.parametrize("format", ["colmap", "imw", "hloc"])
def test_matches_of_other_features(scene: Scene, tmp_path: Path, format: str) -> None:
    """Such indices crash COLMAP."""
    (tmp_path / "artifacts" / "matches.h5").unlink()
    scene.matches["a", "sub/b"][1, 3] = 50
    write_matches(scene, tmp_path / "artifacts")
    with pytest.raises(ArtifactError, match="'sub/b' has 50 keypoints, not 51; match again"):
        run(tmp_path, format=format)
    (tmp_path / "artifacts" / "matches.h5").unlink()
    scene.matches["sub/c", "x"] = scene.matches["sub/b", "sub/c"]
    del scene.matches["a", "sub/b"]
    write_matches(scene, tmp_path / "artifacts")
    with pytest.raises(ArtifactError, match="has matches of 'x', but no features"):
        run(tmp_path, format=format)


@pytest.mark.parametrize("format", ["colmap", "hloc"])
def test_a_full_disk(scene: Scene, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    with full_disk(2000), pytest.raises(DiskError, match="cannot write"):
        run(tmp_path, format=format, output=out, database_path=out / "database.db")
    assert {path.name for path in out.iterdir()} == ({".database.db.lock"} if format == "colmap" else set())
    run(tmp_path, format=format, output=out, database_path=out / "database.db")


def test_files_of_another_program(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "keypoints.h5").write_text("hello")
    with pytest.raises(ArtifactError, match=r"keypoints\.h5 cannot be read as HDF5"):
        run(tmp_path)
    with h5py.File(tmp_path / "artifacts" / "keypoints.h5", "w") as file:
        file["a"] = np.zeros((3, 4))
    with pytest.raises(ArtifactError, match="was written by another program"):
        run(tmp_path)
    assert not (tmp_path / "database.db").exists()


def test_the_database_lies_beside_the_artifacts(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["export", str(tmp_path / "artifacts"), str(tmp_path / "photos")]) == 0
    assert (tmp_path / "database.db").is_file()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert main(["export", str(tmp_path), str(tmp_path / "photos"), "--overwrite"]) == 0  # the model folder


def test_options_of_another_format_are_reported(scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path, format="hloc", single_camera=True, camera_model="opencv", database_path=None)
    assert "not used: single_camera is for format='colmap'" in caplog.text
    assert "not used: camera_model is for format='colmap'" in caplog.text
    run(tmp_path, output=tmp_path / "x")
    assert "not used: output is for format='imw' or hloc" in caplog.text


@pytest.mark.parametrize(
    ("model", "single", "warned"), [("opencv", False, True), ("opencv", True, False), ("radial", False, False)]
)
def test_a_camera_per_image_with_many_parameters_logs_a_warning(
    scene: Scene, tmp_path: Path, caplog: pytest.LogCaptureFixture, model: str, single: bool, warned: bool
) -> None:
    """The original refuses OPENCV without a shared camera."""
    run(tmp_path, camera_model=model, single_camera=single)
    assert ("camera_model='opencv' has 8 parameters, and each image gets its own" in caplog.text) == warned


def test_distortion_starts_at_zero(scene: Scene, tmp_path: Path) -> None:
    with open_database(run(tmp_path)) as database:
        assert [camera.params[3] for camera in database.read_all_cameras()] == [0, 0, 0]


def test_the_wrong_folder(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    Image.new("RGB", (640, 480)).save(tmp_path / "other" / "x.jpg")
    with pytest.raises(ImageError, match="has none of the 3 images"):
        export(tmp_path / "artifacts", tmp_path / "other")


def test_only_exports_are_replaced(scene: Scene, tmp_path: Path) -> None:
    artifacts, photo = tmp_path / "artifacts", tmp_path / "photos" / "a.JPG"
    files = [*artifacts.glob("*.h5"), photo]
    before = [file.read_bytes() for file in files]
    for database in (photo, artifacts / "keypoints.h5", artifacts):
        with pytest.raises(ColmapError, match="is not overwritten"):
            run(tmp_path, database_path=database, overwrite=True)
    for layout in ("imw", "hloc"):
        with pytest.raises(ArtifactError, match=r"h5 is an artifact of this program, which format='\w+' would replace"):
            run(tmp_path, database_path=None, format=layout, output=artifacts, overwrite=True)
        for _ in range(2):
            run(tmp_path, database_path=None, format=layout, output=tmp_path / layout, overwrite=True)
    assert [file.read_bytes() for file in files] == before


def test_a_photo_replaced_since_detection_is_refused(scene: Scene, tmp_path: Path) -> None:
    photos = list_images(tmp_path / "photos")
    noted = {
        photo.name: {"relative": photo.relative, "bytes": 0, "modified": 0, "sha256": file_hash(photo.path, "sha256")}
        for photo in photos
    }
    (tmp_path / "artifacts" / "photos.json").write_text(json.dumps(noted))
    run(tmp_path)
    Image.open(tmp_path / "photos" / "sub" / "b.JPG").rotate(180).save(tmp_path / "photos" / "sub" / "b.JPG")
    with pytest.raises(ImageError, match=r"1 photo in .* changed after detection: sub/b;"):
        run(tmp_path, overwrite=True)
