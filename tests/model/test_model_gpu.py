"""The GPU engine as a whole, with plain torch and with Triton's kernels, compared with the dense network in float64."""

import pytest
import torch
from torch.nn import functional as F

from disk.images.resizing import Placement
from disk.model import kernels
from disk.model.canvas import Canvas
from disk.model.detection import nms, refine
from disk.model.disk import DISK
from disk.model.gpu import BatchEngine
from disk.model.kernels import plain
from disk.model.options import DetectionOptions

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []


@pytest.fixture
def choose(monkeypatch):
    """Selects the operations that run, on any device."""

    def choose(name):
        chosen = plain
        if name == "triton":
            pytest.importorskip("triton")
            from disk.model.kernels import fused as chosen

            if DEVICE.type == "cpu":
                # when interpreted, a program costs the same at any size
                monkeypatch.setattr(chosen, "_BLOCK", 512)
                monkeypatch.setattr(chosen, "_PIXELS", 512)
                monkeypatch.setattr(chosen, "_POINTS", 64)
        monkeypatch.setattr(kernels, "operations", lambda device, dtype: chosen)

    return choose


@pytest.fixture(params=["torch", "triton"])
def operations(request, choose):
    """Either of the two."""
    choose(request.param)


@pytest.fixture
def model(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    model = DISK(desc_dim=20)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.normal_(0, 0.3)
    return model.to(DEVICE)


def canvases(*sizes, shape=(32, 48), masked=()):
    """Images of these (height, width) on canvases of one shape."""
    torch.manual_seed(1)
    made = []
    for i, (height, width) in enumerate(sizes):
        pixels = torch.zeros(3, *shape, dtype=torch.uint8)
        pixels[:, :height, :width] = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
        mask = torch.rand(height, width) < 0.5 if i in masked else None
        made.append(Canvas(pixels, Placement(width, height, 1.0, 1.0), (width, height), mask))
    return made


def by_the_dense_network(model, canvas, options):
    """Keypoints, scores and descriptors of an image in float64."""
    with torch.no_grad():
        heatmap, raw = model.cpu().double()(canvas.pixels[None].double() / 255)
    model.float().to(DEVICE)
    area = heatmap[0, 0, : canvas.placement.height, : canvas.placement.width]
    points, scores = nms(area, options.window)
    if canvas.mask is not None:
        kept = canvas.mask[points[:, 1], points[:, 0]]
        points, scores = points[kept], scores[kept]
    points, scores = points[: options.budget], scores[: options.budget]
    x, y = points.unbind(1)
    peaks = refine(area, points) if options.subpixel else points.float()
    return peaks, scores, F.normalize(raw[0, :, y, x].T, dim=1)


def check(model, engine, images, options, tolerance=1e-4):
    found = engine.start(images, options, None, torch.device("cpu"))()
    for canvas, features in zip(images, found, strict=True):
        peaks, scores, descriptors = by_the_dense_network(model, canvas, options)
        assert len(features) > 3
        torch.testing.assert_close(features.keypoints.double(), peaks.double(), atol=20 * tolerance, rtol=0)
        torch.testing.assert_close(features.scores.double(), scores, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(features.descriptors.double(), descriptors, atol=tolerance, rtol=0)


@pytest.mark.slow
@pytest.mark.usefixtures("operations")
@pytest.mark.parametrize(
    "options",
    [DetectionOptions(n=9), DetectionOptions(n=None, subpixel=False, window=3)],
    ids=["budget", "all"],
)
def test_a_batch_equals_the_dense_network(model, options):
    images = canvases((32, 48), (19, 45), masked=[1])
    check(model, BatchEngine(model, "fp32"), images, options)


@pytest.mark.slow
@pytest.mark.usefixtures("operations")
@pytest.mark.parametrize("shape", [(16, 16), (16, 80)])
def test_grids_of_one_pixel_at_the_bottom(model, shape):
    check(model, BatchEngine(model, "fp32"), canvases(shape, shape=shape), DetectionOptions())


@pytest.mark.slow
@pytest.mark.usefixtures("operations")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.02), ("bf16", 0.15)])
def test_half_precision_finds_nearly_the_same(model, precision, tolerance):
    images, options = canvases((32, 48)), DetectionOptions(subpixel=False)
    found = BatchEngine(model, precision).start(images, options, None, torch.device("cpu"))()
    for canvas, features in zip(images, found, strict=True):
        points, scores, descriptors = by_the_dense_network(model, canvas, options)
        rows = {tuple(p): i for i, p in enumerate(points.tolist())}
        pairs = [(i, rows[tuple(p)]) for i, p in enumerate(features.keypoints.tolist()) if tuple(p) in rows]
        assert len(pairs) >= 0.9 * len(points)
        mine, theirs = torch.tensor(pairs).unbind(1)
        spread = scores.std()
        assert (features.scores[mine] - scores[theirs]).abs().max() < tolerance * spread * 2
        assert (features.descriptors[mine] - descriptors[theirs]).norm(dim=1).max() < 2 * tolerance


@pytest.mark.slow
def test_kernels_and_plain_torch_find_the_same(model, choose):
    found = []
    for name in ("torch", "triton"):
        choose(name)
        engine = BatchEngine(model, "fp32")
        found += engine.start(canvases((32, 48)), DetectionOptions(), None, torch.device("cpu"))()
        assert engine.name == name
    torch.testing.assert_close(found[0].keypoints, found[1].keypoints, atol=1e-3, rtol=0)
    torch.testing.assert_close(found[0].descriptors, found[1].descriptors, atol=1e-5, rtol=0)


def test_autocast_does_not_change_the_precision(model, choose):
    """The kernels would not even compile for maps in another precision than the weights."""
    choose("torch")
    images, options, engine = canvases((32, 48)), DetectionOptions(), BatchEngine(model, "fp32")
    (expected,) = engine.start(images, options, None, torch.device("cpu"))()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        (got,) = engine.start(images, options, None, torch.device("cpu"))()
    torch.testing.assert_close(got.keypoints, expected.keypoints, atol=1e-3, rtol=0)
    torch.testing.assert_close(got.descriptors, expected.descriptors, atol=1e-5, rtol=0)


def test_drawn_keypoints_lie_on_the_image_and_are_repeatable(model):
    images = canvases((19, 45), (32, 20), masked=[0])
    options, engine = DetectionOptions(mode="rng"), BatchEngine(model, "fp32")
    generators = [torch.Generator(DEVICE).manual_seed(3) for _ in range(2)]
    first, again = (engine.start(images, options, g, torch.device("cpu"))() for g in generators)
    for canvas, features, other in zip(images, first, again, strict=True):
        x, y = features.keypoints.long().unbind(1)
        assert len(features) > 0
        assert torch.equal(features.keypoints, other.keypoints)
        assert (x < canvas.placement.width).all()
        assert (y < canvas.placement.height).all()
        assert (features.scores.diff() <= 0).all()
        assert canvas.mask is None or canvas.mask[y, x].all()
        with torch.no_grad():
            _, raw = model.cpu().double()(canvas.pixels[None].double() / 255)
        model.float().to(DEVICE)
        torch.testing.assert_close(
            features.descriptors.double(), F.normalize(raw[0, :, y, x].T, dim=1), atol=1e-4, rtol=0
        )


def test_a_batch_that_does_not_fit_gives_the_same(model, monkeypatch):
    images, options = canvases((32, 48), (19, 45), (32, 20)), DetectionOptions()
    expected = BatchEngine(model, "fp32").start(images, options, None, torch.device("cpu"))()
    engine = BatchEngine(model, "fp32")
    detect = engine._detect

    def short_of_memory(canvases, options):
        if len(canvases) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return detect(canvases, options)

    monkeypatch.setattr(engine, "_detect", short_of_memory)
    got = engine.start(images, options, None, torch.device("cpu"))()
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.keypoints, b.keypoints, atol=1e-3, rtol=0)
    assert engine.images_at_once(32, 48) == 1


@pytest.mark.gpu
def test_graphs_find_the_same(model):
    engine, options = BatchEngine(model, "fp16"), DetectionOptions(n=50)
    images = canvases((32, 48), (19, 45))
    found = [engine.start([image], options, None, DEVICE)() for image in images * 3]
    for first, later in zip(found[:2] * 2, found[2:], strict=True):
        assert torch.equal(first[0].keypoints, later[0].keypoints)
        assert torch.equal(first[0].descriptors, later[0].descriptors)


def test_kernels_are_chosen_for_gpus_that_run_them_and_never_with_gradients(monkeypatch):
    pytest.importorskip("triton")
    from disk.model.kernels import fused

    cuda, cpu, capability = torch.device("cuda", 0), torch.device("cpu"), (9, 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    kernels.has_kernels.cache_clear()
    with torch.no_grad():
        assert kernels.operations(cuda, torch.float16) is fused
        assert kernels.operations(cuda, torch.float64) is plain
        assert kernels.operations(cpu, torch.float16) is plain
        assert kernels.operations(torch.device("mps"), torch.float16) is plain
        capability = (6, 1)
        kernels.has_kernels.cache_clear()
        assert kernels.operations(cuda, torch.float16) is plain
        capability = (9, 0)
        kernels.has_kernels.cache_clear()
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert kernels.operations(cuda, torch.float16) is plain
    kernels.has_kernels.cache_clear()
    assert kernels.operations(cuda, torch.float16) is plain
