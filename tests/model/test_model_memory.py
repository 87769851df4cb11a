"""Batches that do not fit into memory, and how canvases reach the device."""

from dataclasses import replace

import pytest
import torch

from disk.images.resizing import Placement
from disk.model import memory
from disk.model.canvas import Canvas
from disk.model.memory import Parts, fits, tile_side, upload

CPU = torch.device("cpu")


def canvases(count, height=16, width=32, valid=(13, 30)):
    return [
        Canvas(
            torch.randint(0, 256, (3, height, width), dtype=torch.uint8),
            Placement(valid[1], valid[0], 1.0, 1.0),
            (valid[1], valid[0]),
        )
        for _ in range(count)
    ]


def network(most, calls):
    """Fails above a number of images."""

    def run(part):
        calls.append(len(part))
        if len(part) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(part)

    return run


def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered(caplog):
    caplog.set_level("WARNING", "disk")
    parts, calls, images = Parts(320), [], canvases(11)
    results = parts.run(network(3, calls), images)
    assert [image for part in results for image in part] == images
    assert calls == [11, 5, 2, 2, 2, 2, 2, 1]

    calls.clear()
    parts.run(network(3, calls), images[:4])
    assert calls == [2, 2]
    assert [r.message for r in caplog.records] == [
        "11 images of 32 x 16 did not fit into the GPU's memory; continuing with smaller batches"
    ]
    assert parts.images_at_once(16, 32, CPU) == 2
    assert parts.images_at_once(32, 32, CPU) == 1


def test_a_single_image_that_does_not_fit_is_an_error():
    calls = []
    with pytest.raises(torch.OutOfMemoryError):
        Parts(320).run(network(0, calls), canvases(2))
    assert calls == [2, 1]


def test_the_batch_follows_the_free_memory(monkeypatch):
    free = 10_000_000_000
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free - 2_000_000_000, 0))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5_000_000_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3_000_000_000)
    at_once = Parts(320).images_at_once
    cuda = torch.device("cuda")
    assert at_once(768, 1024, cuda) == 16  # larger batches do not use a GPU better
    assert at_once(384, 512, cuda) == 64
    free = 2_600_000_000
    assert at_once(768, 1024, cuda) == 8  # 0.8 of 2.6 GB at 320 bytes per pixel
    assert at_once(1536, 2048, cuda) == 2
    free = 2_000_000_000
    assert at_once(8000, 8000, cuda) == 1


def test_upload():
    images = canvases(2)
    pixels, sizes, masks = upload(images, CPU)
    assert torch.equal(pixels, torch.stack([image.pixels for image in images]))
    assert sizes.tolist() == [[13, 30], [13, 30]]
    assert masks is None

    mask = torch.rand(13, 30) < 0.5
    _, _, masks = upload([images[0], replace(images[1], mask=mask)], CPU)
    assert masks[0].all()
    assert torch.equal(masks[1, :13, :30], mask)


@pytest.mark.gpu
def test_upload_to_a_gpu():
    images = canvases(3)
    pixels, sizes, _ = upload(images, torch.device("cuda"))
    assert pixels.is_cuda
    assert torch.equal(pixels.cpu(), torch.stack([image.pixels for image in images]))
    assert sizes.tolist() == [[13, 30]] * 3


@pytest.mark.parametrize("device", [CPU, torch.device("cuda")])
def test_the_limit_follows_the_free_memory(monkeypatch, device):
    asked = []
    free = 10e9
    monkeypatch.setattr(memory, "free_memory", lambda device: asked.append(device) or free)
    assert fits(1600 * 1600, 10**9, device)  # the default size runs as a whole, as it always has
    assert asked == []
    assert fits(32_000_000, 250, device)  # 0.8 of 10 GB
    assert not fits(32_000_001, 250, device)
    assert asked == [device, device]
    free = float("inf")
    assert fits(1 << 27, 250, device)
    assert not fits(300_000_000, 250, device)


def test_tiles_are_as_large_as_the_memory_allows(monkeypatch):
    free = float("inf")
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    assert tile_side(300_000_000, CPU) == 2048
    free = 4.4e9  # 0.8 of it, less 9 bytes per pixel, at 400 bytes per pixel of a tile
    assert tile_side(300_000_000, CPU) == 1424
    assert 400 * 1424**2 + 9 * 300_000_000 <= 0.8 * free < 400 * 1440**2 + 9 * 300_000_000
    free = 1e9
    assert tile_side(300_000_000, CPU) == 512
