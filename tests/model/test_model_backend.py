"""Inference over padded batches: onnxruntime and torch agree, padding and masks are respected."""

import numpy as np
import pytest
import torch

from disk.errors import DiskError, ImageError
from disk.model import backend
from disk.model.backend import choose_device, make_backend
from disk.model.disk import DISK, pad


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DISK().eval()


def by_position(features):
    """Order by position: equal scores up to rounding may come in another order."""
    order = np.lexsort(features.keypoints.numpy().T)
    return features.keypoints[order], features.descriptors[order], features.scores[order]


def test_onnx_equals_torch_at_several_sizes_and_batches(model):
    onnx, torch_backend = make_backend(model, "cpu"), make_backend(model, "cpu", backend="torch")
    assert (onnx.name, torch_backend.name) == ("onnx", "torch")
    for batch, height, width in [(1, 16, 16), (1, 48, 160), (3, 64, 80)]:
        images = torch.rand(batch, 3, height, width)
        sizes = [(height - 3, width - 5)] * batch
        got, expected = onnx.detect_batch(images.clone(), sizes), torch_backend.detect_batch(images, sizes)
        for a, b in zip(got, expected, strict=True):
            assert len(a) > 0
            for x, y in zip(by_position(a), by_position(b), strict=True):
                torch.testing.assert_close(x, y, atol=1e-4, rtol=0)


def test_no_keypoint_in_the_padding_and_exactly_n(model):
    backend = make_backend(model, "cpu")
    images = torch.rand(1, 3, 64, 96)
    (everything,) = backend.detect_batch(images, [(41, 50)])
    assert everything.keypoints[:, 0].max() < 50
    assert everything.keypoints[:, 1].max() < 41
    for n in (0, 1, len(everything) - 1, len(everything), len(everything) + 1):
        (best,) = backend.detect_batch(images, [(41, 50)], n=n)
        assert len(best) == min(n, len(everything))
        assert torch.equal(best.keypoints, everything.keypoints[:n])
    assert (everything.scores.diff() <= 0).all()
    assert everything.scores.min() > 0
    torch.testing.assert_close(everything.descriptors.norm(dim=1), torch.ones(len(everything)))


def test_masks_apply_before_the_best_are_taken(model):
    backend = make_backend(model, "cpu")
    images = torch.rand(2, 3, 48, 64)
    mask = torch.zeros(48, 64, dtype=torch.bool)
    mask[:, 40:] = True
    masked, free = backend.detect_batch(images, [(48, 64)] * 2, n=20, masks=[mask, None])
    assert len(masked) == len(free) == 20
    assert masked.keypoints[:, 0].min() >= 40
    assert free.keypoints[:, 0].min() < 40


def test_random_mode_depends_on_the_generator(model):
    backend = make_backend(model, "cpu")
    images = torch.rand(1, 3, 64, 96)

    def draw(seed):
        return backend.detect_batch(images, [(60, 90)], mode="rng", generator=torch.Generator().manual_seed(seed))[0]

    first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(first.keypoints, again.keypoints)
    assert len(first) != len(other) or not torch.equal(first.keypoints, other.keypoints)
    assert first.keypoints[:, 0].max() < 90
    assert (first.scores < 0).all()  # log-probabilities


def test_half_precision_finds_the_same_places(model):
    images = torch.rand(1, 3, 64, 96)
    (full,) = make_backend(model, "cpu").detect_batch(images, [(64, 96)], n=100)
    half = make_backend(model, "cpu", precision="bf16")
    assert half.name == "torch"
    (found,) = half.detect_batch(images, [(64, 96)], n=100)
    assert found.keypoints.dtype == found.descriptors.dtype == torch.float32
    common = {tuple(p) for p in full.keypoints.tolist()} & {tuple(p) for p in found.keypoints.tolist()}
    assert len(common) > 70


@pytest.mark.parametrize("there", [True, False])
def test_a_processor_without_the_instructions_is_warned_of(model, monkeypatch, caplog, there):
    monkeypatch.setattr(backend, "_has_instructions", lambda precision: there)
    make_backend(model, "cpu", precision="bf16")
    assert ("no bf16 instructions" in caplog.text) is not there


def test_detect_takes_images_of_any_kind_and_size(model):
    from PIL import Image

    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (37, 53, 3), dtype=np.uint8)
    tensor = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    expected = model.detect(tensor, n=50)
    assert expected.keypoints[:, 0].max() < 53
    for image in (array, Image.fromarray(array), tensor):
        assert torch.equal(model.detect(image, n=50).keypoints, expected.keypoints)
    batch = model.detect(torch.stack([tensor, tensor.flip(2)]), n=50)
    assert isinstance(batch, list)
    torch.testing.assert_close(batch[0].scores, expected.scores, atol=1e-4, rtol=0)
    for size in [(1, 1), (15, 200)]:
        assert len(model.detect(torch.rand(3, *size))) >= 0
    for bad in (array[:, :, 0], array.astype(np.float64), tensor[:2], array[:0]):
        with pytest.raises(ImageError):
            model.detect(bad)


def test_pad_is_zero_and_minimal():
    padded = pad(torch.ones(1, 3, 17, 32))
    assert padded.shape == (1, 3, 32, 32)
    assert padded[:, :, 17:].abs().sum() == 0


def test_devices_and_backends_that_cannot_be(model):
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(DiskError, match="no such device"):
        choose_device("tpu")
    with pytest.raises(DiskError, match="--backend onnx"):
        make_backend(model, "cpu", precision="bf16", backend="onnx")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_cuda_equals_cpu(model):
    images = torch.rand(1, 3, 64, 96)
    (expected,) = make_backend(model, "cpu").detect_batch(images, [(64, 96)])
    (got,) = make_backend(model, "cuda").detect_batch(images, [(64, 96)])
    torch.testing.assert_close(by_position(got)[1], by_position(expected)[1], atol=1e-3, rtol=0)
