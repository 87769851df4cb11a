"""Detection in prepared images: onnxruntime and torch agree, padding and masks are respected, weights are current."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import disk
from disk import devices
from disk.errors import DiskError
from disk.features import Features
from disk.images.resizing import Placement
from disk.model import engine, memory
from disk.model.canvas import Canvas, pad_to_stride
from disk.model.disk import DISK
from disk.model.engine import resolve_precision
from disk.model.options import DetectionOptions
from textured import textured_photo


def network(backend="torch", precision="auto"):
    torch.manual_seed(0)
    model = DISK().eval()
    model.backend, model.precision = backend, precision
    return model


@pytest.fixture(scope="module")
def model():
    return network()


def canvases(images, height, width, masks=None):
    """Canvases with the image at the top left."""
    masks = masks or [None] * len(images)
    return [
        Canvas(image, Placement(width, height, 1.0, 1.0), (width, height), mask)
        for image, mask in zip(images, masks, strict=True)
    ]


def found(model, images, height, width, masks=None, generator=None, **options):
    options = {"subpixel": False, "n": None, **options}
    return model.start(canvases(images, height, width, masks), DetectionOptions(**options), generator)()


def by_position(features):
    """Sort by position: scores that are equal up to rounding may be in another order."""
    order = np.lexsort(features.keypoints.numpy().T)
    return features.keypoints[order], features.descriptors[order], features.scores[order]


def test_onnx_equals_torch_at_several_sizes_and_batches(model):
    onnx = network("onnx")
    assert (onnx.engine.name, model.engine.name) == ("onnx", "torch")
    for batch, height, width in [(1, 16, 16), (1, 48, 160), (3, 64, 80)]:
        images = torch.rand(batch, 3, height, width)
        got, expected = (found(m, images, height - 3, width - 5) for m in (onnx, model))
        for a, b in zip(got, expected, strict=True):
            assert len(a) > 0
            for x, y in zip(by_position(a), by_position(b), strict=True):
                torch.testing.assert_close(x, y, atol=1e-4, rtol=0)


def test_without_onnxruntime_torch_runs_everything(monkeypatch):
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    assert network("auto").engine.name == "torch"


@pytest.mark.parametrize(("faster", "name"), [("torch", "torch"), ("onnxruntime", "onnx")])
def test_onnxruntime_is_used_where_it_is_faster(monkeypatch, faster, name):
    def fastest(task, ways):
        results = [prepare()() for prepare in ways.values()]  # both give the same
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=1e-4, rtol=0)
        return faster

    monkeypatch.setattr(engine, "fastest", fastest)
    model = network("auto")
    state = torch.get_rng_state()
    assert model.engine.name == name
    assert torch.equal(torch.get_rng_state(), state)  # the user's random numbers are not consumed


def test_no_keypoint_in_the_padding_and_exactly_n(model):
    images = torch.rand(1, 3, 64, 96)
    (everything,) = found(model, images, 41, 50)
    assert everything.keypoints[:, 0].max() < 50
    assert everything.keypoints[:, 1].max() < 41
    for n in (1, len(everything) - 1, len(everything), len(everything) + 1):
        (best,) = found(model, images, 41, 50, n=n)
        assert len(best) == min(n, len(everything))
        assert torch.equal(best.keypoints, everything.keypoints[:n])
    assert (everything.scores.diff() <= 0).all()
    assert everything.scores.min() > 0
    torch.testing.assert_close(everything.descriptors.norm(dim=1), torch.ones(len(everything)))


def test_bytes_equal_the_corresponding_floats(model):
    image = torch.randint(0, 256, (3, 32, 48), dtype=torch.uint8)
    (one,), (other,) = found(model, [image], 32, 48), found(model, [image / 255], 32, 48)
    assert torch.equal(one.keypoints, other.keypoints)
    torch.testing.assert_close(one.descriptors, other.descriptors)


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_images_in_parallel_give_what_each_gives_alone(threads, backend):
    threads(2)
    model, images = network(backend), torch.rand(5, 3, 48, 64)
    together = found(model, images, 45, 64, subpixel=True)
    for features, image in zip(together, images, strict=True):
        (alone,) = found(model, [image], 45, 64, subpixel=True)
        for a, b in zip(by_position(features), by_position(alone), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("cores", "room", "batch", "at_once", "cores_each"),
    [
        (4, 100, 4, 4, 1),  # images in parallel
        (4, 100, 9, 4, 1),
        (4, 100, 3, 4, 1),
        (4, 100, 2, 4, 4),  # too few to use the cores well
        (4, 3.5, 4, 3, 4),  # four do not fit into memory together
        (4, 0.5, 1, 1, 4),
        (1, 100, 3, 1, 1),
    ],
)
def test_cores_work_on_one_image_each_if_there_are_enough(
    monkeypatch, threads, cores, room, batch, at_once, cores_each
):
    threads(cores)
    monkeypatch.setattr(memory, "free_memory", lambda device: room * 32 * 48 * 250 / 0.8)
    model, seen = network(), []
    real = model.engine._coarse
    model.engine._coarse = lambda image: (seen.append((len(image), torch.get_num_threads())), real(image))[1]
    assert model.images_at_once(32, 48) == at_once
    found(model, torch.rand(batch, 3, 32, 48), 32, 48)
    assert seen == [(1, cores_each)] * batch


def test_masks_apply_before_the_best_are_selected(model):
    mask = torch.zeros(48, 64, dtype=torch.bool)
    mask[:, 40:] = True
    masked, free = found(model, torch.rand(2, 3, 48, 64), 48, 64, [mask, None], n=20)
    assert len(masked) == len(free) == 20
    assert masked.keypoints[:, 0].min() >= 40
    assert free.keypoints[:, 0].min() < 40


def test_random_mode_depends_on_the_generator_and_keeps_all_draws(model):
    images = torch.rand(1, 3, 64, 96)

    def draw(seed, n="auto"):
        return found(model, images, 60, 90, generator=torch.Generator().manual_seed(seed), mode="rng", n=n)[0]

    first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(first.keypoints, again.keypoints)
    assert len(first) != len(other) or not torch.equal(first.keypoints, other.keypoints)
    assert first.keypoints[:, 0].max() < 90
    assert (first.scores < 0).all()  # log-probabilities
    assert DetectionOptions(mode="rng").budget is None
    assert torch.equal(draw(1, n=5).keypoints, first.keypoints[:5])


def test_half_precision_finds_the_same_positions(model):
    images = torch.rand(1, 3, 64, 96)
    (full,) = found(model, images, 64, 96, n=100)
    half = network("auto", "bf16")
    assert half.engine.name == "torch"
    (near,) = found(half, images, 64, 96, n=100)
    assert near.keypoints.dtype == near.descriptors.dtype == torch.float32
    common = {tuple(p) for p in full.keypoints.tolist()} & {tuple(p) for p in near.keypoints.tolist()}
    assert len(common) > 70


@pytest.mark.parametrize(("precision", "share"), [("bf16", 0.98), ("fp16", 0.995)])
def test_the_weights_that_ship_find_nearly_the_same_in_half_precision(precision, share):
    image = textured_photo(192, 256)
    full, half = (disk.load("default", "cpu", kind, "torch").detect(image, n=None) for kind in ("fp32", precision))
    distances, nearest = torch.cdist(full.keypoints, half.keypoints).min(1)
    near = distances < 0.5
    assert len(full) > 100
    assert near.float().mean() > share
    assert (full.descriptors * half.descriptors[nearest]).sum(1)[near].mean() > 0.999


def test_half_precision_takes_8_bit_images_without_rounding_them():
    image = torch.randint(0, 256, (1, 3, 32, 48))
    model = network(precision="bf16")
    *_, full = model.engine._coarse(image / 255)
    first = model.unet.path_down[0][1][3]
    weight = (first.weight.detach() * (256 / 255)).bfloat16().double()
    bias = first.bias.detach().bfloat16().double()
    expected = F.conv2d(image.double() / 256, weight, bias, padding=2)
    torch.testing.assert_close(full.double(), expected, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("there", [True, False])
def test_a_cpu_without_the_instructions_logs_a_warning(monkeypatch, caplog, there):
    monkeypatch.setattr(engine, "has_instructions", lambda precision: there)
    assert network(precision="bf16").engine
    assert ("no bf16 instructions" in caplog.text) is not there


@pytest.mark.parametrize(("load", "said"), [(7.0, True), (1.0, False)])
def test_processes_that_compete_for_the_cores_get_a_hint(model, monkeypatch, caplog, load, said):
    monkeypatch.setattr(devices.os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda process: {0, 1})
    monkeypatch.setattr(engine.torch, "get_num_threads", lambda: 2)
    engine.hint_at_rivals.cache_clear()
    for _ in range(2):
        model.detect(torch.rand(3, 16, 16))
    assert caplog.text.count("other processes use the CPU (7 threads want to run on 2 cores)") == int(said)
    assert caplog.text.count("disk.load(threads=1)") == int(said)


def test_automatic_precision():
    assert resolve_precision("auto", torch.device("cuda", 0)) == "fp16"
    assert resolve_precision("auto", torch.device("cpu")) == "fp32"
    assert resolve_precision("bf16", torch.device("cuda", 0)) == "bf16"


def test_an_invalid_use_of_onnx():
    with pytest.raises(DiskError, match="backend='onnx' runs in fp32 on the CPU"):
        assert network("onnx", "bf16").engine


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_changed_weights_are_used(backend):
    model, image = network(backend), torch.rand(3, 32, 48)
    before = model.detect(image)
    torch.manual_seed(1)
    other = DISK()
    model.load_state_dict(other.state_dict())
    expected, after = other.detect(image), model.detect(image)
    assert not torch.equal(before.scores[:5], after.scores[:5])
    torch.testing.assert_close(after.scores, expected.scores, atol=1e-4, rtol=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0)
    assert len(model.detect(image)) == 0


@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_a_copy_detects_the_same(backend):
    model, image = network(backend), torch.rand(3, 32, 48)
    expected = model.detect(image)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.detect(image).keypoints, expected.keypoints)


def test_parameters_of_other_types_detect_the_same():
    model, image = network("auto"), torch.rand(3, 64, 96)
    expected = model.detect(image, n=50)

    def common(features: Features) -> int:
        return int((torch.cdist(expected.keypoints, features.keypoints).amin(1) < 0.5).sum())

    assert common(model.double().detect(image, n=50)) >= 49
    assert common(model.half().detect(image, n=50)) >= 40
    assert next(model.parameters()).dtype == torch.float16  # the module itself does not change


def test_detections_can_be_trained_on(model):
    features = model.detect(torch.rand(3, 32, 48))
    layer = torch.nn.Linear(128, 1)
    layer(features.descriptors).sum().backward()
    assert layer.weight.grad is not None


def test_pad_is_zero_and_minimal():
    padded = pad_to_stride(torch.ones(3, 17, 32))
    assert padded.shape == (3, 32, 32)
    assert padded[:, 17:].abs().sum() == 0


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_cuda_equals_cpu(model, precision):
    images = torch.rand(1, 3, 64, 96)
    (expected,) = found(model, images, 64, 96, n=100)
    on_gpu = network(precision=precision).to("cuda")
    (got,) = found(on_gpu, images, 64, 96, n=100)
    assert got.keypoints.device.type == "cuda"
    nearest = torch.cdist(expected.keypoints, got.keypoints.cpu()).amin(1)
    assert (nearest < 0.5).sum() >= (98 if precision == "fp32" else 85)
