from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from brightest_pixel import BrightestPixel
from PIL import Image

import disk.pipeline.detect as stage
import disk.pipeline.loading as loading
from disk.cli.main import main
from disk.errors import ArtifactError, CheckpointError, DiskError, ImageError
from disk.images.reading import read_image
from disk.model.checkpoints import load, save, weights_hash
from disk.model.disk import DISK
from disk.pipeline.detect import DetectOptions, detect
from disk.storage.artifacts import FeatureStore, read_features


@pytest.fixture(autouse=True)
def _torch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--backend auto` means torch here, which starts at once; tests of both backends set it explicitly."""
    real = stage.load

    def load_for_torch(path: str, device: Any, precision: Any, backend: Any) -> DISK:
        return real(path, device, precision, "torch" if backend == "auto" else backend)

    monkeypatch.setattr(stage, "load", load_for_torch)


def same(store: FeatureStore, other: FeatureStore, tolerance: float = 0) -> None:
    assert store.names == other.names
    for name in store:
        a, b = store[name], other[name]
        torch.testing.assert_close(a.keypoints, b.keypoints, rtol=0, atol=0)
        torch.testing.assert_close(a.descriptors, b.descriptors, rtol=0, atol=tolerance)
        torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=tolerance)


@pytest.mark.parametrize("subpixel", [True, False])
@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_a_folder_gives_what_the_model_gives(photo_folder: Path, tmp_path: Path, backend: Any, subpixel: bool) -> None:
    summary = detect(tmp_path / "out", photo_folder, DetectOptions(n=50, backend=backend, subpixel=subpixel))
    assert (summary.images, summary.detected, summary.keypoints, summary.failed) == (4, 4, 200, {})
    model = load()
    with read_features(tmp_path / "out") as store:
        assert store.names == ["a", "b", "c", "sub/d"]
        assert store.attributes["weights"] == weights_hash(model)
        assert "(0, 0) is the centre of the first pixel" in store.attributes["coordinates"]
        assert '"n": 50' in store.attributes["options"]
        assert store.image_size("c") == (64, 80)
        assert store.image_path("b") == "b.PNG"
        for name in store:
            found = store[name]
            expected = model.detect(read_image(photo_folder / store.image_path(name)), n=50, subpixel=subpixel)
            torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
            torch.testing.assert_close(found.keypoints, expected.keypoints, rtol=0, atol=2e-3 if subpixel else 0)
            torch.testing.assert_close(found.descriptors, expected.descriptors, rtol=0, atol=1e-4)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".lock", "descriptors.h5", "keypoints.h5", "photos.json", "scores.h5",
    ]  # fmt: skip


def test_files_have_the_originals_format(photo_folder: Path, tmp_path: Path) -> None:
    """Names, types and order as the original's match.py and h5_to_db.py expect them."""
    detect(tmp_path, photo_folder, DetectOptions(n=20, f16=True, detection_scores=True))
    with (
        h5py.File(tmp_path / "keypoints.h5") as keypoints,
        h5py.File(tmp_path / "descriptors.h5") as descriptors,
        h5py.File(tmp_path / "scores.h5") as scores,
    ):
        assert set(keypoints) == {"a", "b", "c", "sub"}
        for name in ("a", "b", "c"):
            assert keypoints[name].shape == (20, 2)
            assert keypoints[name].dtype == np.float32
            assert descriptors[name].shape == (20, 128)
            assert descriptors[name].dtype == np.float16
            assert scores[name].shape == (20,)
            assert scores[name].dtype == np.float32
            assert (np.diff(scores[name][()]) <= 0).all()
            norms = np.linalg.norm(descriptors[name][()].astype(float), axis=1)
            np.testing.assert_allclose(norms, 1, atol=2e-3)


@pytest.mark.parametrize("cores", [1, 2])
def test_a_batch_gives_what_single_images_give(photo_folder: Path, tmp_path: Path, threads: Any, cores: int) -> None:
    threads(cores)
    detect(tmp_path / "one", photo_folder, DetectOptions(n=40, batch_size=1))
    detect(tmp_path / "many", photo_folder, DetectOptions(n=40, batch_size=3, workers=2))
    with read_features(tmp_path / "one") as one, read_features(tmp_path / "many") as many:
        same(one, many, tolerance=1e-4)


def test_exactly_n_keypoints_where_there_are_n_and_all_with_none(photo_folder: Path, tmp_path: Path) -> None:
    detect(tmp_path / "all", photo_folder, DetectOptions(n=None))
    with read_features(tmp_path / "all") as store:
        counts = {name: len(store[name]) for name in store}
        best = store["a"].keypoints[:7]
    assert min(counts.values()) > 50
    detect(tmp_path / "some", photo_folder, DetectOptions(n=counts["a"]))
    detect(tmp_path / "seven", photo_folder, DetectOptions(n=7))
    with read_features(tmp_path / "some") as store:
        assert {name: len(store[name]) for name in store} == {k: min(v, counts["a"]) for k, v in counts.items()}
    with read_features(tmp_path / "seven") as store:
        assert torch.equal(store["a"].keypoints, best)


def test_keypoints_in_the_padding_never_count(tmp_path: Path) -> None:
    """--height and --width pad a wide image to twice its height: still n keypoints, all of them on the image."""
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (33, 90, 3), dtype=np.uint8)).save(tmp_path / "in" / "a.png")
    detect(tmp_path / "all", tmp_path / "in", DetectOptions(n=None, height=96, width=96))
    with read_features(tmp_path / "all") as store:
        everything = store["a"]
        x, y = everything.keypoints.unbind(1)
        assert ((x >= -0.5) & (x < 89.5) & (y >= -0.5) & (y < 32.5)).all()
    n = len(everything) // 2
    detect(tmp_path / "half", tmp_path / "in", DetectOptions(n=n, height=96, width=96))
    with read_features(tmp_path / "half") as store:
        assert torch.equal(store["a"].keypoints, everything.keypoints[:n])


@pytest.mark.parametrize(
    "options",
    [{"max_size": 0}, {"max_size": 100}, {"height": 60, "width": 300}, {"height": 45}, {"width": 777}],
)
def test_keypoints_are_mapped_to_the_original_pixels(tmp_path: Path, monkeypatch: Any, options: Any) -> None:
    (tmp_path / "in").mkdir()
    image = np.zeros((150, 400, 3), np.uint8)
    y, x = np.mgrid[:150, :400]
    image[:] = (255 * np.exp(-((x - 303.0) ** 2 + (y - 77.0) ** 2) / 200))[..., None]
    Image.fromarray(image).save(tmp_path / "in" / "a.png")
    backend = BrightestPixel()
    monkeypatch.setattr("disk.model.disk.make_engine", lambda *arguments: backend)
    detect(tmp_path, tmp_path / "in", DetectOptions(**options))
    height, width = backend.sizes[0][2:]
    assert height % 16 == width % 16 == 0
    scale = {0: 1, 100: 0.25}.get(options.get("max_size", -1)) or min(
        options.get("height", 1e9) / 150, options.get("width", 1e9) / 400
    )
    with read_features(tmp_path) as store:
        np.testing.assert_allclose(store.keypoints("a"), [[303, 77]], atol=0.5 / min(1, scale) + 1e-3)


def test_masks_remove_features_where_they_are_zero(photo_folder: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    (masks / "sub").mkdir(parents=True)
    left = np.zeros((64, 96), np.uint8)
    left[:, :40] = 255
    Image.fromarray(left).save(masks / "a.jpg.png")
    Image.fromarray(0 * left).save(masks / "b.PNG.png")
    Image.fromarray(255 - left).save(masks / "sub" / "d.jpg.png")
    options = {"max_size": 80, "n": None, "subpixel": False}  # a mask applies to whole pixels
    detect(tmp_path / "plain", photo_folder, DetectOptions(**options))
    detect(tmp_path / "masked", photo_folder, DetectOptions(**options, mask_dir=masks))
    with read_features(tmp_path / "plain") as plain, read_features(tmp_path / "masked") as masked:
        for name, keep in {"a": lambda x: x < 39.5, "sub/d": lambda x: x >= 39.5}.items():
            kept = keep(plain[name].keypoints[:, 0])
            assert 10 < kept.sum() < len(kept)
            assert torch.equal(masked[name].keypoints, plain[name].keypoints[kept])
            assert torch.equal(masked[name].descriptors, plain[name].descriptors[kept])
        assert len(masked["b"]) == 0
        assert torch.equal(masked["c"].keypoints, plain["c"].keypoints)
    detect(tmp_path / "best", photo_folder, DetectOptions(max_size=80, n=10, subpixel=False, mask_dir=masks))
    with read_features(tmp_path / "best") as best, read_features(tmp_path / "masked") as masked:
        assert torch.equal(best["a"].keypoints, masked["a"].keypoints[:10])


def test_random_mode_is_the_same_on_every_run(photo_folder: Path, tmp_path: Path) -> None:
    options = DetectOptions(mode="rng", n=30)
    detect(tmp_path / "x", photo_folder, options)
    detect(tmp_path / "y", photo_folder, options)
    only = tmp_path / "only"
    only.mkdir()
    (only / "c.jpg").write_bytes((photo_folder / "c.jpg").read_bytes())
    detect(tmp_path / "z", only, options)
    with read_features(tmp_path / "x") as x, read_features(tmp_path / "y") as y, read_features(tmp_path / "z") as z:
        same(x, y)
        assert 0 < len(x["c"]) <= 30
        assert torch.equal(x["c"].keypoints, z["c"].keypoints)
        cells = set(map(tuple, (x["a"].keypoints // 8).tolist()))
        assert len(cells) == len(x["a"])


def test_finished_images_are_skipped(photo_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    options = DetectOptions(n=20)
    (photo_folder / "c.jpg").rename(tmp_path / "c.jpg")
    assert detect(tmp_path / "out", photo_folder, options).detected == 3
    (tmp_path / "c.jpg").rename(photo_folder / "c.jpg")
    assert detect(tmp_path / "out", photo_folder, options).detected == 1
    monkeypatch.setattr(loading, "read_upright", lambda path: pytest.fail("read again"))
    # speed and device options may change; only options that affect the features must agree
    assert detect(tmp_path / "out", photo_folder, DetectOptions(n=20, batch_size=2, workers=1)).detected == 0
    with read_features(tmp_path / "out") as store:
        assert store.names == ["a", "b", "c", "sub/d"]


def test_other_options_or_weights_are_refused(photo_folder: Path, tmp_path: Path) -> None:
    detect(tmp_path / "out", photo_folder, DetectOptions(n=20))
    before = (tmp_path / "out" / "keypoints.h5").read_bytes()
    with pytest.raises(ArtifactError, match=r"n 20 there, 21 now; window 5 there, 3 now"):
        detect(tmp_path / "out", photo_folder, DetectOptions(n=21, window=3))
    torch.manual_seed(0)
    save(DISK(), tmp_path / "other.safetensors")
    other = DetectOptions(n=20, model_path=str(tmp_path / "other.safetensors"))
    with pytest.raises(ArtifactError, match=r"weights \w+ there, \w+ now"):
        detect(tmp_path / "out", photo_folder, other)
    assert (tmp_path / "out" / "keypoints.h5").read_bytes() == before
    assert detect(tmp_path / "out", photo_folder, DetectOptions(n=21, overwrite=True)).detected == 4
    with read_features(tmp_path / "out") as store:
        assert len(store["a"]) == 21


def test_two_runs_at_once(photo_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    entered, leave = threading.Event(), threading.Event()
    real = stage.load_image

    def slow(*arguments: Any, **options: Any) -> Any:
        entered.set()
        leave.wait(10)
        return real(*arguments, **options)

    monkeypatch.setattr(stage, "load_image", slow)
    first = threading.Thread(target=detect, args=(tmp_path / "out", photo_folder, DetectOptions(n=20)))
    first.start()
    assert entered.wait(10)
    try:
        with pytest.raises(ArtifactError, match="in use by another run"):
            detect(tmp_path / "out", photo_folder, DetectOptions(n=20))
    finally:
        leave.set()
        first.join()
    with read_features(tmp_path / "out") as store:
        assert len(store) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n=0: must be at least 1"),
        ({"window": 4}, "window=4: must be odd"),
        ({"height": 0}, "height=0"),
        ({"max_size": -1}, "max_size=-1"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"mask_dir": Path("no/such/folder")}, "mask folder no/such/folder does not exist"),
        ({"desc_dim": 64}, "use desc_dim=128"),
        ({"model_path": "no-such.pth"}, "no-such.pth"),
        ({"device": "mps"}, "device='mps'"),
        ({"precision": "bf16", "backend": "onnx"}, "backend='onnx'"),
    ],
)
def test_invalid_options(photo_folder: Path, tmp_path: Path, options: Any, message: str) -> None:
    if options.get("device") == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has one")
    with pytest.raises((DiskError, CheckpointError, ImageError), match=message):
        detect(tmp_path / "out", photo_folder, DetectOptions(**options))


def test_command_line_takes_the_originals_options(photo_folder: Path, tmp_path: Path) -> None:
    save(load(), tmp_path / "weights.pth")
    arguments = "--height 64 --width 64 --image-extension jpg --f16 --window 3 --n 10 --desc-dim 128 --mode nms"
    command = ["detect", str(tmp_path / "out"), str(photo_folder), *arguments.split(), "--detection-scores"]
    assert main([*command, "--model_path", str(tmp_path / "weights.pth")]) == 0
    assert main([*command, "--model-path", "default", "--quiet"]) == 0  # the same weights: nothing to do
    with read_features(tmp_path / "out") as store:
        assert store.names == ["a", "c", "sub/d"]
        assert [len(store[name]) for name in store] == [10, 10, 10]


def test_an_internal_error_is_not_hidden(photo_folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """An exception in the writing thread surfaces; complete results stay."""
    monkeypatch.setattr(stage, "write_features", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        detect(tmp_path / "out", photo_folder, DetectOptions(n=10))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu(photo_folder: Path, tmp_path: Path, precision: Any) -> None:
    detect(tmp_path / "gpu", photo_folder, DetectOptions(n=100, device="cuda", precision=precision))
    detect(tmp_path / "cpu", photo_folder, DetectOptions(n=100, device="cpu", precision="fp32"))
    with read_features(tmp_path / "gpu") as gpu, read_features(tmp_path / "cpu") as cpu:
        for name in cpu:
            # sub-pixel keypoints differ in the fourth digit
            nearest = torch.cdist(cpu[name].keypoints, gpu[name].keypoints).amin(1)
            assert (nearest < 0.1).float().mean() > (0.95 if precision == "fp32" else 0.6)
