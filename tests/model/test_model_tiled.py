"""An image in tiles of any size gives the result of the whole image: keypoints, descriptors, masks, budgets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import disk
from disk.model import disk as facade
from disk.model import tiled
from disk.model.disk import DISK
from disk.model.moments import Moments
from disk.model.tiled import TiledNetwork
from disk.model.tiles import cut
from textured import textured_photo


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = DISK().eval().double()  # so that only the tiles can make a difference
    model.backend = "torch"
    return model


@pytest.fixture
def in_tiles(monkeypatch):
    """Treats every image as too large for memory."""

    def use(side):
        monkeypatch.setattr(facade, "fits", lambda *arguments: False)
        monkeypatch.setattr(tiled, "tile_side", lambda *arguments: side)

    return use


def assert_same(tiles, whole):
    assert len(tiles) == len(whole) > 0
    assert tiles.image_size == whole.image_size
    torch.testing.assert_close(tiles.keypoints, whole.keypoints, atol=1e-4, rtol=0)
    torch.testing.assert_close(tiles.scores, whole.scores, atol=1e-5, rtol=0)
    assert (tiles.descriptors * whole.descriptors).sum(1).min() > 1 - 1e-6


@pytest.mark.parametrize(
    ("height", "width", "side", "options"),
    [
        (19, 203, 48, {"n": None}),
        (203, 19, 64, {"n": 40}),
        (35, 203, 48, {"n": None, "window": 27}),
        (131, 133, 64, {"n": None, "window": 1, "subpixel": False}),
        (19, 203, 64, {"n": None, "height": 48, "width": 304}),
        (50, 60, 2048, {"n": 50}),
    ],
)
def test_tiles_equal_the_whole_image(model, in_tiles, height, width, side, options):
    photo = textured_photo(height, width)
    whole = model.detect(photo, **options)
    in_tiles(side)
    assert_same(model.detect(photo, **options), whole)


def test_equal_scores_come_in_reading_order(model, in_tiles):
    # equal squares far from each other and from the borders have equal scores
    image = np.full((48, 272, 3), 100, np.uint8)
    for x in (40, 136, 232):
        image[20:28, x - 4 : x + 4] = 255
    whole = model.detect(image, n=None)
    in_tiles(96)
    assert_same(model.detect(image, n=None), whole)


def test_masks_and_orientation(model, in_tiles, tmp_path):
    photo = textured_photo(40, 161)
    mask = np.zeros((40, 161), np.uint8)
    mask[:, 45:90] = 1
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo).save(tmp_path / "photo.png", exif=exif)
    whole = model.detect(tmp_path / "photo.png", masks=mask, n=60)
    in_tiles(48)
    features = model.detect(tmp_path / "photo.png", masks=mask, n=60)
    assert_same(features, whole)
    assert features.keypoints[:, 0].min() > 44
    assert features.keypoints[:, 0].max() < 90


def test_no_keypoint_is_missing_or_doubled_at_tile_borders(model, in_tiles):
    photo = textured_photo(48, 160)
    in_tiles(32)
    features = model.detect(photo, n=None, subpixel=False)
    x, y = features.keypoints.T
    assert len(features.keypoints.unique(dim=0)) == len(features)
    # the keypoints next to borders are those of the whole image, by the dense formulation
    dense, _ = model(torch.from_numpy(photo).permute(2, 0, 1)[None].double() / 255)
    logits = dense[0, 0]
    expected = {
        (int(column), int(row))
        for row, column in torch.nonzero(logits > 0)
        if logits[row, column] == logits[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3].max()
    }
    assert {(int(a), int(b)) for a, b in zip(x, y, strict=True)} == expected
    assert any(int(a) % 32 in (31, 0) for a in x)


def test_random_mode_draws_one_keypoint_per_cell(model, in_tiles):
    photo = textured_photo(36, 150)
    in_tiles(48)

    def draw(seed):
        return model.detect(photo, mode="rng", generator=torch.Generator().manual_seed(seed))

    features, again = draw(1), draw(1)
    assert torch.equal(features.keypoints, again.keypoints)
    cells = (features.keypoints // 8).unique(dim=0)
    assert len(cells) == len(features) > 3
    assert features.keypoints[:, 0].max() < 150
    assert features.keypoints[:, 0].max() > 100


def test_single_precision_models_and_half(in_tiles):
    torch.manual_seed(0)
    model = DISK().eval()
    model.backend = "torch"
    photo = textured_photo(36, 150)
    whole = model.detect(photo, n=None)
    in_tiles(64)
    assert_same(model.detect(photo, n=None), whole)
    half = model.bfloat16().detect(photo, n=20)
    assert half.descriptors.dtype == torch.float32
    assert len(half) == 20


@pytest.mark.parametrize("window", [5, 27])  # with 27, tiles see no more rows than they need
def test_the_heatmap_is_correct_as_far_as_suppression_and_refinement_reach(model, window):
    image = torch.rand(1, 3, 48, 208, dtype=torch.float64)
    tiles = cut(48, 208, 48, window)
    reach = window // 2 + 1
    assert tiles[2].seen[1] == slice(96 - 48, 144 + 48)
    with torch.no_grad():
        expected = model.heatmap(model.encode(image.clone()))[0]
        network = TiledNetwork(model.unet, image, tiles)
        for tile in tiles:
            got = model.heatmap(network.encoding(tile))[0]
            first, last = max(tile.own[1].start - reach, 0), tile.own[1].stop + reach
            x = tile.corner[0]
            torch.testing.assert_close(got[:, first - x : last - x], expected[:, first:last], atol=1e-9, rtol=0)


def test_up_blocks_without_strips_give_the_same(model, monkeypatch):
    """The path of devices other than CPUs."""
    image = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    tiles = cut(64, 96, 48, 5)
    with torch.no_grad():
        expected = TiledNetwork(model.unet, image, tiles).encoding(tiles[0])
        monkeypatch.setattr(tiled, "TILE", 1 << 20)
        got = TiledNetwork(model.unet, image, tiles).encoding(tiles[0])
    torch.testing.assert_close(got.half, expected.half)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 8), st.integers(0, 60), st.booleans())
def test_moments_equal_those_of_the_whole_map(rows, columns, side, window, upsampled):
    whole = 100 + torch.rand(1, 2, 16 * rows, 16 * columns, dtype=torch.float64)
    moments = Moments(upsampled)
    for tile in cut(16 * rows, 16 * columns, 16 * side, 2 * window + 1):
        moments.add(tile, tile.crop(whole))
    norm = moments.norm()
    reference = torch.nn.functional.interpolate(whole, scale_factor=2, mode="bilinear") if upsampled else whole
    variance, mean = torch.var_mean(reference, (2, 3), correction=0)
    torch.testing.assert_close(norm.mean[:, :, 0, 0], mean)
    torch.testing.assert_close(norm.scale, torch.rsqrt(variance + 1e-5))


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 12), st.integers(0, 40))
def test_tiles_cover_an_image_once(rows, columns, side, window):
    height, width, side = 16 * rows, 16 * columns, 16 * side
    count = torch.zeros(height, width, dtype=torch.int32)
    for tile in cut(height, width, side, 2 * window + 1):
        for own, seen, size in zip(tile.own, tile.seen, (height, width), strict=True):
            assert own.stop - own.start <= side
            assert seen.start % 16 == seen.stop % 16 == 0
            assert seen.start == 0 or own.start - seen.start >= 35 + window
            assert seen.stop == size or seen.stop - own.stop >= 35 + window
        count[tile.own] += 1
    assert (count == 1).all()


def test_images_that_do_not_fit_after_all_run_in_tiles(model, monkeypatch, caplog):
    """A GPU may have no memory left by the time it is needed."""

    def start(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    photo = textured_photo(48, 64)
    whole = model.detect(photo, n=20)
    monkeypatch.setattr(model.engine, "start", start)
    caplog.set_level("INFO", "disk")
    assert_same(model.detect(photo, n=20), whole)
    assert "64 x 48 does not fit into memory; running in 1 overlapping tiles of at most 64 x 48" in caplog.text


@pytest.mark.gpu
def test_tiles_on_a_gpu_equal_the_whole_image(in_tiles):
    model = disk.load(device="cuda", precision="fp32")
    photo = textured_photo(75, 100)
    whole = model.detect(photo, n=200)
    in_tiles(48)
    features = model.detect(photo, n=200)
    distance = torch.cdist(features.keypoints, whole.keypoints).amin(1)
    assert (distance < 0.1).float().mean() > 0.98
