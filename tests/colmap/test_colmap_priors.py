"""GPS positions on a local map, compared with independent formulas, and in a database."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from disk.colmap.database import open_database
from disk.colmap.priors import local_map, write_priors
from disk.images.gps import GpsPosition
from geotagged import geodetic, local, to_ecef

pycolmap = pytest.importorskip("pycolmap")


@pytest.mark.parametrize("origin", [(47.4, 8.5, 400.0), (-33.9, 179.9999, 12.0), (0.0001, -179.9999, -3.0)])
def test_metres_east_north_up(origin: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(9, 3)) * [300, 300, 40]
    true[0] = [4e6, -3e6, 1e5]  # nonsense, which hardly moves the origin
    places = {f"{i}": GpsPosition(*geodetic(position, origin)) for i, position in enumerate(true)}
    found = local_map(places)
    assert np.linalg.norm(local(*found.origin, origin)) < 400
    for name, place in places.items():
        wanted = local(place.latitude, place.longitude, place.altitude, found.origin)
        np.testing.assert_allclose(found.positions[name], wanted, atol=2e-3)
        on_earth = found.ecef_from_enu @ [*found.positions[name], 1]
        np.testing.assert_allclose(on_earth[:3], to_ecef(place.latitude, place.longitude, place.altitude), atol=5e-3)


def test_missing_altitudes() -> None:
    some = {"a": GpsPosition(1.0, 2.0, 10.0), "b": GpsPosition(1.0, 2.0, 30.0), "c": GpsPosition(1.0, 2.0)}
    assert local_map(some).positions["c"][2] == pytest.approx(0)
    assert local_map(some).positions["b"][2] == pytest.approx(10)
    assert local_map(some).has_altitudes
    none = local_map({"a": GpsPosition(1.0, 2.0)})
    assert (none.origin, none.has_altitudes) == ((1.0, 2.0, 0.0), False)


@pytest.mark.parametrize(
    ("metres", "guides"),
    [
        (np.diag([100.0, 100, 10]), True),
        (np.diag([100.0, 3, 0]), False),  # a street
        (np.diag([4.0, 4, 4]), False),  # a table
        (np.diag([0.0, 0, 0]), False),
    ],
)
def test_when_positions_guide_the_mapper(metres: np.ndarray, guides: bool) -> None:
    """If they spread in two directions by more than their error of 5 m; one on another continent does not count."""
    offsets = np.random.default_rng(0).normal(size=(12, 3)) @ metres
    offsets[3] += [5e6, 1e6, 0] if metres.any() else 0
    places = {f"{i}": GpsPosition(*geodetic(offset, (47.0, 8.0, 400.0))) for i, offset in enumerate(offsets)}
    assert local_map(places).guides == guides


def test_priors_in_a_database(tmp_path: Path) -> None:
    path = tmp_path / "database.db"
    with pycolmap.Database.open(path) as database:
        camera = pycolmap.Camera.create_from_model_name(0, "SIMPLE_PINHOLE", 100, 100, 100)
        camera_id = database.write_camera(camera)
        for name in ("a.jpg", "b.jpg"):
            database.write_image(pycolmap.Image(name=name, camera_id=camera_id))
    from disk.colmap.schema import make_readable

    make_readable(path)
    places = {"a.jpg": GpsPosition(1.0, 2.0, 3.0), "gone.jpg": GpsPosition(4.0, 5.0, 6.0)}
    write_priors(path, places)
    assert columns(path) == {"image_id", "position", "coordinate_system", "position_covariance"}
    write_priors(path, places)
    write_priors(path, {**places, "b.jpg": GpsPosition(7.0, 8.0, 9.0, error=0.02)})
    with open_database(path) as database:
        priors = database.read_all_pose_priors()
        names = [database.read_image(prior.corr_data_id.id).name for prior in priors]
        assert names == ["a.jpg", "b.jpg"]
        assert priors[1].position.tolist() == [7, 8, 9]
        np.testing.assert_allclose(np.diag(priors[1].position_covariance), [4e-4, 4e-4, 16e-4])
    assert columns(path) == {"image_id", "position", "coordinate_system", "position_covariance"}
    write_priors(path, {})
    assert columns(path) == set()  # the table is omitted, for COLMAP 3.8


def columns(path: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return {row[1] for row in database.execute("PRAGMA table_info(pose_priors)")}
