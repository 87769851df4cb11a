"""The sets of planes, turns and night: their homographies explain their images."""

import numpy as np
import pytest
from PIL import Image

from disk.errors import DiskError
from disk.evaluation.ground_truth import read_homography_pairs
from script import load_script
from textured import textured_photo

cv2 = pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def homographies():
    return load_script("benchmarks/homographies.py")


@pytest.fixture(scope="module")
def sets(homographies, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    photo = cv2.GaussianBlur(textured_photo(300, 420, seed=3), (0, 0), 2)
    Image.fromarray(photo).save(folder / "photo.png")
    homographies.main(folder / "out", (folder / "photo.png",))
    return folder


@pytest.mark.parametrize("kind", ["planes", "turns"])
def test_the_homographies_map_image_1_onto_the_others(sets, kind):
    pairs = read_homography_pairs(sets / "out" / kind)
    assert len(pairs) == 5
    for k in range(2, 7):
        folder = sets / "out" / kind / "v_photo"
        first, other = (np.asarray(Image.open(folder / f"{n}.png")).astype(float) for n in (1, k))
        there = np.loadtxt(folder / f"H_1_{k}")
        size = (first.shape[1], first.shape[0])
        seen = cv2.warpPerspective(first, there, size, flags=cv2.INTER_LINEAR)
        # only where the photo is, a few pixels from its border
        inside = cv2.erode(cv2.warpPerspective(np.ones(first.shape[:2]), there, size), np.ones((7, 7))) > 0.99
        assert inside.sum() > 2000
        error = np.abs(seen - other).mean(2)
        # the contrast of what is seen, which a shift by a few pixels would cost
        assert np.median(error[inside]) < 0.15 * other[inside].std()


def test_turns_turn(sets):
    folder = sets / "out" / "turns" / "v_photo"
    for k, expected in zip(range(2, 7), (0, 45, 90, 135, 180), strict=True):
        there = np.loadtxt(folder / f"H_1_{k}")
        centre = np.array([209.5, 149.5, 1])
        jacobian = (there[:2, :2] - np.outer(there[:2] @ centre / (there[2] @ centre), there[2, :2])) / (
            there[2] @ centre
        )
        angle = np.degrees(np.arctan2(jacobian[1, 0] - jacobian[0, 1], jacobian[0, 0] + jacobian[1, 1]))
        assert abs((angle - expected + 180) % 360 - 180) < 17


def test_night_lights_a_grey_wall_unevenly_with_noise(homographies):
    wall = np.full((240, 320, 3), 128, np.uint8)
    night = homographies.at_night(wall, np.random.default_rng(1)).astype(float)
    smooth = cv2.GaussianBlur(night, (0, 0), 6)
    assert np.ptp(smooth.mean(2)) > 20
    assert 0.5 < (night - smooth).std() < 40
    # lamps are warm
    assert night[..., 0].mean() > night[..., 2].mean() + 3
    again = homographies.at_night(wall, np.random.default_rng(1))
    np.testing.assert_array_equal(again, night)


def test_existing_sets_and_equal_names_are_refused(sets, homographies):
    with pytest.raises(DiskError, match="exists"):
        homographies.main(sets / "out", (sets / "photo.png",))
    with pytest.raises(DiskError, match="same name"):
        homographies.main(sets / "new", (sets / "photo.png", sets / "other" / "photo.png"))
