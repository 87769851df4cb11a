"""GPS tags of EXIF: positions in any spelling, and tags without a position."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from disk.errors import ImageError
from disk.images.gps import _Fault, _position, read_position, read_positions
from disk.images.listing import list_images
from geotagged import geotag, gps_tags

ZURICH = {1: "N", 2: (47.0, 22.0, 36.0), 3: "E", 4: (8.0, 32.0, 24.0)}


def photo(folder: Path, name: str = "a.jpg", tags: dict[int, Any] | None = None) -> Path:
    path = folder / name
    Image.new("RGB", (16, 12)).save(path)
    if tags is not None:
        geotag(path, tags)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("place", [(47.3767, 8.54, 408.25), (-33.8568, 151.2153, 5.0), (31.5, -35.5, -430.0)])
def test_positions_read_back(tmp_path: Path, suffix: str, place: tuple[float, float, float]) -> None:
    found = read_position(photo(tmp_path, f"a.{suffix}", gps_tags(*place)))
    assert found is not None
    assert (found.latitude, found.longitude) == pytest.approx(place[:2], abs=2e-9)
    assert found.altitude == pytest.approx(place[2], abs=1e-4)
    assert found.error == 5.0


def test_a_photo_without_gps(tmp_path: Path) -> None:
    assert read_position(photo(tmp_path)) is None
    assert read_position(photo(tmp_path, "b.jpg", {0: b"\2\3\0\0", 29: "2024:05:01"})) is None  # a version, a date
    (tmp_path / "c.jpg").write_bytes(b"no image")
    with pytest.raises(ImageError):
        read_position(tmp_path / "c.jpg")


@pytest.mark.parametrize(
    ("tags", "error"),
    [
        ({31: IFDRational(3, 2)}, 1.5),
        ({11: 2.0}, 10.0),
        ({31: 4.0, 11: 2.0}, 4.0),
        ({31: 0.0, 11: 3.0}, 15.0),
        ({31: 0.0, 11: 0.0}, 5.0),
        ({31: IFDRational(1, 0)}, 5.0),
        ({31: 1e-5}, 0.01),
    ],
)
def test_the_error_of_a_position(tags: dict[int, Any], error: float) -> None:
    found = _position(ZURICH | tags)
    assert found is not None
    assert found.error == pytest.approx(error)


@pytest.mark.parametrize(
    ("tags", "latitude", "longitude", "altitude"),
    [
        (ZURICH | {1: b"S\0", 3: "W\0"}, -47.376667, -8.54, None),
        (ZURICH | {1: " north", 3: "east"}, 47.376667, 8.54, None),
        (ZURICH | {2: (47.37666667,), 4: (8.0, 32.4)}, 47.376667, 8.54, None),
        (ZURICH | {2: 47.37666667}, 47.376667, 8.54, None),
        (ZURICH | {6: 400.0}, 47.376667, 8.54, 400.0),
        (ZURICH | {5: b"\1", 6: 400.0}, 47.376667, 8.54, -400.0),
        (ZURICH | {5: 1, 6: 400.0}, 47.376667, 8.54, -400.0),
        (ZURICH | {5: b"\2", 6: 400.0}, 47.376667, 8.54, 400.0),
        (ZURICH | {5: b"\3", 6: 400.0}, 47.376667, 8.54, -400.0),
        (ZURICH | {5: b"", 6: 400.0}, 47.376667, 8.54, 400.0),
        (ZURICH | {6: IFDRational(0, 0)}, 47.376667, 8.54, None),
        (ZURICH | {6: 4e9}, 47.376667, 8.54, None),
        (ZURICH | {9: "A"}, 47.376667, 8.54, None),
    ],
)
def test_spellings(tags: dict[int, Any], latitude: float, longitude: float, altitude: float | None) -> None:
    found = _position(tags)
    assert found is not None
    assert (found.latitude, found.longitude) == pytest.approx((latitude, longitude), abs=1e-6)
    assert found.altitude == altitude


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({1: "N", 2: (47.0, 0.0, 0.0)}, "only one of latitude and longitude"),
        ({key: value for key, value in ZURICH.items() if key != 1}, "no N or S beside the degrees"),
        (ZURICH | {3: "N"}, "no E or W beside the degrees"),
        (ZURICH | {2: (0.0, 0.0, 0.0), 4: (0.0, 0.0, 0.0)}, "latitude and longitude are 0"),
        (ZURICH | {2: (IFDRational(0, 0),) * 3}, "not numbers"),
        (ZURICH | {2: ()}, "not numbers"),
        (ZURICH | {2: ("forty", 0, 0)}, "not numbers"),
        (ZURICH | {2: (-47.0, 0.0, 0.0)}, "not numbers"),
        (ZURICH | {2: None}, "not numbers"),
        (ZURICH | {2: (90.0, 0.0, 1.0)}, "beyond 90 degrees"),
        (ZURICH | {4: (181.0, 0.0, 0.0)}, "beyond 180 degrees"),
        (ZURICH | {2: (47.0, 75.0, 0.0)}, "more than 60 minutes or seconds"),
        (ZURICH | {9: "V"}, "the receiver had no fix"),
    ],
)
def test_tags_that_tell_no_position(tags: dict[int, Any], why: str) -> None:
    with pytest.raises(_Fault, match=why):
        _position(tags)


def test_all_faults_in_one_line(tmp_path: Path) -> None:
    photo(tmp_path, "good.jpg", ZURICH)
    photo(tmp_path, "none.jpg")
    photo(tmp_path, "v1.jpg", ZURICH | {9: "V"})
    photo(tmp_path, "v2.jpg", ZURICH | {9: "V"})
    photo(tmp_path, "half.jpg", {3: "E", 4: (8.0, 0.0, 0.0)})
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe1")
    positions, faults = read_positions(list_images(tmp_path))
    assert list(positions) == ["good.jpg"]
    assert faults == (
        "the GPS tags of 3 photos are not used: only one of latitude and longitude (half.jpg); "
        "the receiver had no fix (v1.jpg, v2.jpg)"
    )


values = st.one_of(
    st.none(), st.text(max_size=4), st.binary(max_size=4), st.integers(), st.floats(),
    st.lists(st.one_of(st.floats(), st.text(max_size=2), st.none()), max_size=4).map(tuple),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from([1, 2, 3, 4, 5, 6, 9, 11, 31]), values))
def test_any_tags_give_a_position_or_a_reason(tags: dict[int, Any]) -> None:
    try:
        position = _position(tags)
    except _Fault:
        return
    assert (position is None) == (2 not in tags and 4 not in tags)
    if position is not None:
        assert abs(position.latitude) <= 90
        assert abs(position.longitude) <= 180
        assert position.error > 0


@given(
    st.fixed_dictionaries(
        {1: st.sampled_from("NS"), 2: st.tuples(st.floats(0, 89), st.floats(0, 59), st.floats(0, 59)),
         3: st.sampled_from("EW"), 4: st.tuples(st.floats(0, 179), st.floats(0, 59), st.floats(0, 59))},
        optional={5: values, 6: values, 11: values, 31: values},
    )
)  # fmt: skip
def test_any_coordinates_on_earth_are_a_position(tags: dict[int, Any]) -> None:
    """Whatever the altitude and error are, the position is on earth, with finite ones."""
    latitude, longitude = (d + minutes / 60 + seconds / 3600 for d, minutes, seconds in (tags[2], tags[4]))
    assume(latitude > 0 or longitude > 0)  # both are 0 without a fix
    found = _position(tags)
    assert found is not None
    assert found.latitude == pytest.approx(latitude if tags[1] == "N" else -latitude)
    assert found.longitude == pytest.approx(longitude if tags[3] == "E" else -longitude)
    assert found.altitude is None or abs(found.altitude) < 1e5
    assert 0 < found.error < float("inf")


def test_damaged_exif_raises_no_other_error(tmp_path: Path) -> None:
    path = photo(tmp_path, tags=ZURICH)
    content = path.read_bytes()
    start = content.index(b"Exif\0\0")
    for cut in range(6, 120, 3):
        path.write_bytes(content[: start + cut] + b"\xff" * 8 + content[start + cut + 8 :])
        with contextlib.suppress(_Fault, ImageError), warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning of Pillow's would reach users
            read_position(path)
