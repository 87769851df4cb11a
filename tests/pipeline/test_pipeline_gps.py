"""GPS from EXIF to geo-registered models, on scenes with known cameras written into EXIF."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from placed_folder import NAMES, ORIGIN, Place

from disk.cli.main import main
from disk.cli.model_table import _place
from disk.colmap.database import open_database
from disk.errors import ArtifactError
from disk.pipeline.export import ExportOptions, export
from disk.pipeline.reconstruct import read_summary
from geotagged import axes_at, geodetic, geotag, gps_tags, local, to_ecef
from synthetic_scene import FOCAL, HEIGHT, WIDTH, Scene


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def origin_of(result: Any) -> tuple[float, float, float]:
    assert result.georegistration is not None, result.remarks
    return tuple(result.georegistration[key] for key in ("latitude", "longitude", "altitude"))


@pytest.mark.parametrize("mapper", ["incremental", "global"])
def test_the_known_similarity_is_recovered(place: Place, mapper: str) -> None:
    place.tag()
    result = place.run(single_camera=True, mapper=mapper)
    position, scale, rotation = place.errors(origin_of(result))
    assert position < 1e-3
    assert scale < 1e-3
    assert rotation < 0.05
    found = result.georegistration
    assert (found["photos"], found["used"], found["outliers"]) == (8, 8, {})
    assert found["median"] <= found["max"] < 0.02
    assert result == read_summary(place.out)
    content = json.loads((place.out / "sparse" / "0" / "georegistration.json").read_text())
    to_earth = np.array(content["ecef_from_model"])
    here = np.array(origin_of(result))
    np.testing.assert_allclose(to_earth[:3, 3], to_ecef(*here), atol=1e-3)
    np.testing.assert_allclose(to_earth[:3, :3].T, axes_at(*here[:2]), atol=1e-9)
    assert content["residuals"]["median"] == found["median"]


@pytest.mark.parametrize("mapper", ["incremental", "global"])
def test_wrong_positions_are_named_and_do_no_harm(place: Place, mapper: str) -> None:
    """One on another continent, which comes first, and one that is off by a tenth of the extent."""
    place.tag({"a": [2e6, 1e6, 0], "f": [9, 0, 5]})
    result = place.run(single_camera=True, mapper=mapper)
    position, scale, rotation = place.errors(origin_of(result))
    assert max(position, scale) < 1e-3
    assert rotation < 0.05
    outliers = result.georegistration["outliers"]
    assert list(outliers) == ["a.jpg", "f.jpg"]
    assert outliers["f.jpg"] == pytest.approx(np.hypot(9, 5), rel=0.01)
    assert result.georegistration["used"] == 6


@pytest.mark.parametrize(("metres", "printed"), [(0.256, "0.26 m"), (12.3, "12 m"), (4567.8, "4,568 m")])
def test_small_distances_are_printed_in_centimetres(metres: float, printed: str) -> None:
    place = {"latitude": 1.0, "longitude": 2.0, "altitude": 3.0, "photos": 9, "used": 8, "median": 0.0, "max": 0.1}
    assert _place({**place, "outliers": {"c.jpg": metres}}).endswith(f"c.jpg ({printed})")


def test_the_summary_has_the_position(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.tag({"c": [500, 0, 0]})
    assert main(["reconstruct", str(place.photos), str(place.out), "--single-camera"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "GPS" in line]
    assert line.startswith("geo-registered by the GPS of 7 of 8 photos, residuals: median 0.00 m, max 0.0")
    assert "metres east, north and up of -33.9" in line
    assert line.endswith("far from their GPS positions: c.jpg (500 m)")


def test_noise_is_reported_as_residuals(place: Place) -> None:
    """Positions are off by 1 m on each axis over 100 m: the model is equally accurate and reports it."""
    rng = np.random.default_rng(0)
    place.tag({name: list(rng.normal(size=3)) for name in NAMES})
    result = place.run(single_camera=True)
    position, scale, _ = place.errors(origin_of(result))
    assert 1e-3 < position < 0.05
    assert scale < 0.05
    assert 0.5 < result.georegistration["median"] < 2.5
    assert result.reprojection_error < 0.1  # the photos still have more weight


def test_overconfident_positions_do_not_bend_the_model(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Off by 1 m on each axis, but 5 cm by their tags: they place the model, while the photos determine its shape."""
    rng = np.random.default_rng(0)
    for name, position in zip(NAMES, place.truth, strict=True):
        geotag(place.photos / f"{name}.jpg", gps_tags(*geodetic(position + rng.normal(size=3), ORIGIN)) | {31: 0.05})
    result = place.run(single_camera=True)
    assert "mapping again without" in caplog.text
    assert result.georegistration is not None
    assert result.reprojection_error < 1e-3


@pytest.mark.parametrize(
    ("why", "tag"),
    [
        ("a position for only 2 photos of the model; three are needed", lambda place: place.tag(names=["a", "b"])),
        ("all 8 photos have the same position", lambda place: same(place)),
        ("the positions do not agree with the model: they are off by", lambda place: place.tag(shuffled(place))),
    ],
    ids=["two", "same", "shuffled"],
)
def test_uninformative_positions_are_not_used(
    place: Place, capsys: pytest.CaptureFixture[str], why: str, tag: Any
) -> None:
    plain = place.run(single_camera=True)
    model = (place.out / "sparse" / "0" / "images.bin").read_bytes()
    tag(place)
    result = place.run(single_camera=True, overwrite=True)
    assert result.georegistration is None
    assert not (place.out / "sparse" / "0" / "georegistration.json").exists()
    (remark,) = [remark for remark in result.remarks if "geo" in remark]
    assert remark.startswith(f"not geo-registered: {why}")
    assert "\n" not in remark
    assert result.registered == plain.registered == 8
    assert (place.out / "sparse" / "0" / "images.bin").read_bytes() == model  # mapped as without GPS
    assert main(["reconstruct", str(place.photos), str(place.out), "--single-camera"]) == 0
    assert f"note: {remark}" in capsys.readouterr().out


def test_photos_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = in_a_line(NAMES[:6])
    place = Place(tmp_path, monkeypatch, scene)
    place.tag()
    result = place.run(
        single_camera=True, fix_intrinsics=True, camera_model="simple-pinhole", camera_params="700,320,240"
    )
    assert result.registered == 6
    assert result.georegistration is None
    (remark,) = result.remarks
    assert remark.startswith("not geo-registered: the photos are in a line")


@pytest.mark.slow
def test_gps_can_be_switched_off_and_on(place: Place) -> None:
    place.tag()
    assert place.run(single_camera=True, gps="off").georegistration is None
    with open_database(place.out / "database.db") as database:
        assert database.num_pose_priors() == 0
    result = place.run(single_camera=True)
    assert result.remarks == ["not geo-registered: the model was made without; remap=True maps from scratch"]
    result = place.run(single_camera=True, remap=True)
    assert result.georegistration is not None
    stamp = (place.out / "sparse" / "0" / "images.bin").stat().st_ino
    assert place.run(single_camera=True) == result
    assert (place.out / "sparse" / "0" / "images.bin").stat().st_ino == stamp
    with pytest.raises(ArtifactError, match=r"gps auto there, off now\); .* map from scratch with remap=True"):
        place.run(single_camera=True, gps="off")
    assert place.run(single_camera=True, gps="off", remap=True).georegistration is None
    assert not (place.out / "sparse" / "0" / "georegistration.json").exists()


@pytest.mark.slow
def test_a_placed_model_stays_in_its_place_when_it_grows(place: Place, tmp_path: Path) -> None:
    """The median of all positions changes, but the origin does not."""
    place.tag()
    last = f"{NAMES[-1]}.jpg"
    shutil.move(place.photos / last, tmp_path)
    first = place.run(single_camera=True)
    shutil.move(tmp_path / last, place.photos)
    result = place.run(single_camera=True)
    assert result.added == [last]
    assert result.georegistration is not None
    assert first.georegistration is not None
    assert origin_of(result) == origin_of(first)
    assert (result.georegistration["photos"], first.georegistration["photos"]) == (len(NAMES), len(NAMES) - 1)
    assert result.georegistration["max"] < 0.05  # metres, including the new photo
    (place.out / "summary.json").unlink()
    assert place.run(single_camera=True).georegistration == result.georegistration


@pytest.mark.parametrize("left", [0, 2])
def test_a_placed_model_stays_in_its_place_without_the_photos_that_fix_it(place: Place, left: int) -> None:
    """With no positions left, or too few to place the model."""
    place.tag(names=NAMES[:4])
    first = place.run(single_camera=True)
    written = json.loads((place.out / "sparse" / "0" / "georegistration.json").read_text())
    for name in NAMES[left:4]:
        (place.photos / f"{name}.jpg").unlink()
    result = place.run(single_camera=True)
    assert set(result.removed) == {f"{name}.jpg" for name in NAMES[left:4]}
    assert result.georegistration == first.georegistration
    assert json.loads((place.out / "sparse" / "0" / "georegistration.json").read_text()) == written
    place.scene.names[:4] = NAMES[:left]
    place.truth = np.delete(place.truth, range(left, 4), 0)
    position, scale, rotation = place.errors(origin_of(result))
    assert max(position, scale) < 1e-3
    assert rotation < 0.05


def test_the_database_has_the_priors(place: Place, tmp_path: Path) -> None:
    import pycolmap

    place.tag(names=NAMES[:5])
    tags = gps_tags(*geodetic(place.truth[5], ORIGIN)) | {31: 0.5}
    del tags[6]  # no altitude
    geotag(place.photos / "f.jpg", tags)
    place.run(single_camera=True)
    again = export(place.out / "artifacts", place.photos, ExportOptions(database_path=tmp_path / "again.db"))
    for path in (place.out / "database.db", again):
        with open_database(path) as database:
            names = {image.image_id: image.name for image in database.read_all_images()}
            priors = {names[prior.corr_data_id.id]: prior for prior in database.read_all_pose_priors()}
        assert sorted(priors) == [f"{name}.jpg" for name in NAMES[:6]]
        for name, position in zip(NAMES[:5], place.truth, strict=False):
            prior = priors[f"{name}.jpg"]
            assert prior.coordinate_system == pycolmap.PosePriorCoordinateSystem.WGS84
            np.testing.assert_allclose(local(*prior.position, ORIGIN), position, atol=2e-3)
            np.testing.assert_allclose(prior.position_covariance, np.diag([25, 25, 100]))
        np.testing.assert_allclose(np.diag(priors["f.jpg"].position_covariance), [0.25, 0.25, 1e4])
        heights = [geodetic(position, ORIGIN)[2] for position in place.truth[:5]]
        assert priors["f.jpg"].position[2] == pytest.approx(np.median(heights), abs=1e-3)


def same(place: Place) -> None:
    for name in NAMES:
        geotag(place.photos / f"{name}.jpg", gps_tags(47.0, 8.0, 400.0))


def shuffled(place: Place) -> dict[str, list[float]]:
    order = np.random.default_rng(3).permutation(8)
    moved = place.truth[order] - place.truth
    return {name: list(by) for name, by in zip(NAMES, moved, strict=True)}


def in_a_line(names: list[str]) -> Scene:
    """Cameras side by side with the same orientation, and 150 points."""
    cloud = np.random.default_rng(0).uniform([-3, -1, 4], [3, 1, 7], (150, 3))
    scene = Scene(names, {}, {}, {}, {}, {}, 0)
    for x, name in zip(np.linspace(-1.5, 1.5, len(names)), names, strict=True):
        seen = cloud - [x, 0, 0]
        pixels = FOCAL * seen[:, :2] / seen[:, 2:] + [WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5]
        scene.rotations[name], scene.translations[name] = np.eye(3), np.array([-x, 0, 0])
        scene.keypoints[name], scene.owners[name] = pixels.astype(np.float32), np.arange(150)
    return scene
