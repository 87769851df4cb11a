"""Detection where there is a GPU, which is pretended: against the CPU, and what waits for it."""

import numpy as np
import pytest
import torch

import disk
from disk.errors import ImageError
from disk.model import kernels
from disk.model.canvas import make_canvases
from disk.model.options import DetectionOptions
from textured import textured_photo

pytestmark = pytest.mark.usefixtures("pretend_cuda")
PHOTO = textured_photo(32, 48)
N = 15


@pytest.fixture
def plain(monkeypatch):
    """A GPU without Triton, which is much faster here than interpreting its kernels."""
    monkeypatch.setattr(kernels, "has_kernels", lambda device: False)


@pytest.fixture(scope="module")
def on_cpu():
    return disk.load(device="cpu", precision="fp32", backend="torch").detect


@pytest.fixture(scope="module")
def expected(on_cpu):
    return on_cpu(PHOTO, n=N)


def assert_same(found, expected):
    assert found.keypoints.shape == expected.keypoints.shape
    distances = torch.cdist(expected.keypoints, found.keypoints.cpu())
    assert distances.amin(1).max() < 0.1
    assert (expected.descriptors - found.descriptors.cpu()[distances.argmin(1)]).abs().max() < 0.02


def test_one_image_directly_recorded_and_replayed(on_cpu):
    model = disk.load(device="cuda", precision="fp32")
    photos = [textured_photo(16, 32, seed) for seed in (0, 0, 1)]
    for photo in photos:  # the graph reads its input, not the image that it was recorded with
        found = model.detect(photo, n=8)
        assert found.keypoints.device == torch.device("cuda", 0)
        assert_same(found, on_cpu(photo, n=8))


def test_images_of_all_kinds(on_cpu, plain):
    model = disk.load(device="cuda", precision="fp32")
    pixels = torch.from_numpy(PHOTO).permute(2, 0, 1)
    mask = textured_photo(32, 48, 5)[:, :, 0] // 128
    kinds = [PHOTO, pixels, pixels.cuda(), pixels.cuda() / 255]
    for options in ({}, {"masks": mask}, {"height": 32, "width": 60}, {"height": 24, "width": 30}):
        expected = on_cpu(PHOTO, n=N, **options)
        for kind in kinds:
            assert_same(model.detect(kind, n=N, **options), expected)
    for found in model.detect(kinds, n=N):
        assert_same(found, on_cpu(PHOTO, n=N))
    assert_same(model.detect(PHOTO, n=N, masks=torch.from_numpy(mask).cuda()), on_cpu(PHOTO, n=N, masks=mask))
    assert_same(model.detect(PHOTO, n=None)[:N], on_cpu(PHOTO, n=N))
    bits = pixels[:1] > 99
    assert_same(model.detect(bits.cuda(), n=N), on_cpu(bits, n=N))


def test_random_keypoints_are_drawn_on_the_gpu(plain):
    model = disk.load(device="cuda", precision="fp32")
    everywhere = np.full((32, 48), 255, np.uint8)
    found = [
        model.detect(PHOTO, n=N, mode="rng", masks=masks, generator=torch.Generator("cuda").manual_seed(1))
        for masks in (None, everywhere)
    ]
    assert len(found[0]) > 0
    assert torch.equal(found[0].keypoints, found[1].keypoints)


def test_in_tiles(expected, plain, monkeypatch):
    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    model = disk.load(device="cuda", precision="fp32")
    monkeypatch.setattr(model.engine, "start", full)
    assert_same(model.detect(PHOTO, n=N, masks=np.full((32, 48), 255, np.uint8)), expected)
    assert len(model.detect(PHOTO, n=N, mode="rng", generator=torch.Generator("cuda").manual_seed(1))) > 0


def test_another_device_than_the_current_one(on_cpu, pretend_cuda):
    model = disk.load(device="cuda:1", precision="fp32")
    pixels = torch.from_numpy(textured_photo(16, 32)).permute(2, 0, 1)
    found = model.detect(pixels.to("cuda:0"), n=8)
    assert found.keypoints.device == torch.device("cuda", 1)
    assert pretend_cuda.thread.device == 0
    assert_same(found, on_cpu(pixels, n=8))
    assert len(disk.match(found, [found, found.cpu()])[1]) == len(found)
    assert pretend_cuda.thread.device == 0


def test_graphs_of_two_devices(on_cpu, plain):
    """torch captures all graphs on a stream of the first one's device, unless given another."""
    for device in ("cuda:0", "cuda:1"):
        model = disk.load(device=device, precision="fp32")
        for seed in range(3):
            photo = textured_photo(32, 48, seed)
            assert_same(model.detect(photo, n=N), on_cpu(photo, n=N))


@pytest.mark.parametrize("first", [True, False])
def test_a_graph_recorded_in_inference_mode_runs_outside_it_and_the_reverse(expected, plain, first):
    model = disk.load(device="cuda", precision="fp32")
    for inference in (first, first, not first, first):
        with torch.inference_mode(inference):
            assert_same(model.detect(PHOTO, n=N), expected)


def test_the_values_of_a_batch_are_checked_at_once(pretend_cuda):
    images = torch.rand(5, 3, 16, 32).cuda()
    waited = pretend_cuda.waits
    make_canvases(images, DetectionOptions())
    assert pretend_cuda.waits == waited + 1
    images[3] += 2
    with pytest.raises(ImageError, match=r"\(3, 16, 32\) has values from 2 to 2\.9"):
        make_canvases(images, DetectionOptions())


def test_only_the_result_is_waited_for(expected, plain, pretend_cuda):
    options = DetectionOptions(n=N)
    model = disk.load(device="cuda", precision="fp32")
    canvases, _ = make_canvases([PHOTO, PHOTO], options)
    model.start(canvases, options)()
    model.start(canvases, options)()  # records the graph
    waited = pretend_cuda.waits
    started = [model.start(canvases, options, None, "cpu") for _ in range(2)]
    assert pretend_cuda.waits == waited
    for finish in started:
        for found in finish():
            assert_same(found, expected)
    assert pretend_cuda.waits == waited + 2
