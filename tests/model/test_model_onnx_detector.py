"""Exported detectors, run by onnxruntime, compared with detection in torch."""

import subprocess
import sys
from pathlib import Path

import jaxtyping
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import disk
from disk.errors import DiskError
from disk.model.detection import nms, refine
from disk.model.disk import DISK
from disk.model.onnx.detector import Detector, _divide, _refine
from disk.model.onnx.export import export_detector, export_for_opencv, export_pair, write_pair
from disk.model.onnx.options import ExportOptions
from disk.model.onnx.runtime import import_onnxruntime, session_options
from textured import textured_photo

N = 150


@pytest.fixture(scope="module")
def model():
    return disk.load("default", "cpu", "fp32", "torch")


def exported(write, model, folder, **options):
    # checking symbolic shapes takes longer than everything else
    checked = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        write(model, folder / "disk.onnx", ExportOptions(**options))
    finally:
        jaxtyping.config.update("jaxtyping_disable", checked)
    return folder / "disk.onnx"


def session(path):
    return import_onnxruntime().InferenceSession(path, session_options(1))


@pytest.fixture(scope="module")
def detector(model, tmp_path_factory):
    return exported(export_detector, model, tmp_path_factory.mktemp("detector"), n=N)


def assert_equal(got, image, model, n=N, subpixel=True):
    expected = model.detect(image, n=n, subpixel=subpixel)
    keypoints, scores, descriptors = got
    count = int((scores > 0).sum())
    assert count == len(expected)
    np.testing.assert_allclose(keypoints[:count], expected.keypoints.numpy(), atol=1e-4)
    np.testing.assert_allclose(scores[:count], expected.scores.numpy(), atol=1e-4)
    np.testing.assert_allclose(descriptors[:count], expected.descriptors.numpy(), atol=1e-4)
    return count


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(64, 80), (75, 129), (17, 31), (16, 16), (9, 40), (1, 1)])
def test_equals_detection_in_torch_at_any_size(detector, model, height, width):
    image = textured_photo(height, width, seed=3)
    got = session(detector).run(None, {"images": image[None]})
    assert_equal([each[0] for each in got], image, model)


def test_a_batch_is_padded_with_rows_of_score_0(detector, model):
    busy, calm = textured_photo(48, 64, seed=1), np.full((48, 64, 3), 90, np.uint8)
    calm[20:30, 20:40] = 200
    got = session(detector).run(None, {"images": np.stack([busy, calm, busy])})
    counts = [assert_equal([each[i] for each in got], image, model) for i, image in ((0, busy), (2, busy))]
    assert counts[0] == counts[1]
    assert got[1].shape[1] == (got[1] > 0).sum(1).max()
    assert (got[1][1, (got[1][1] > 0).sum() :] == 0).all()


def test_runs_by_onnxruntime_alone_and_describes_itself(detector, model, tmp_path):
    """As a program without torch, onnx or this package uses the file."""
    image = textured_photo(50, 70, seed=5)
    np.save(tmp_path / "image.npy", image[None])
    code = f"""
import sys
sys.modules.update({{"torch": None, "onnx": None, "disk": None}})
import numpy, onnxruntime
session = onnxruntime.InferenceSession({str(detector)!r})
print([(v.name, v.type, v.shape) for v in session.get_inputs() + session.get_outputs()])
print(session.get_modelmeta().custom_metadata_map["keypoints"])
numpy.savez("out.npz", *session.run(None, {{"images": numpy.load("image.npy")}}))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    with np.load(tmp_path / "out.npz") as out:
        assert_equal([out[f"arr_{i}"][0] for i in range(3)], image, model)
    assert "('images', 'tensor(uint8)', ['batch', 'height', 'width', 3])" in done.stdout
    assert "('descriptors', 'tensor(float)', ['batch', 'n', 128])" in done.stdout
    assert "centre of the first pixel" in done.stdout


def test_the_file_holds_no_trace_of_the_machine(detector):
    content = detector.read_bytes()
    assert b".py" not in content
    assert str(Path.home()).encode() not in content
    graph = onnx.load(detector).graph
    assert all(value.doc_string for value in [*graph.input, *graph.output])


heatmaps = arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(-1, 2))


@given(heatmaps, st.sampled_from([1, 3, 5]), st.sampled_from([1, 4, None]))
def test_plateaus_and_ties_are_decided_as_in_torch(heatmap, window, n):
    heatmap = torch.from_numpy(heatmap)
    expected, scores = nms(heatmap, window, n)
    torch.manual_seed(0)
    found, indices = Detector(DISK(desc_dim=1), n, window, True)._best(heatmap[None])
    y = _divide(indices, heatmap.shape[1])
    # torch's topk leaves the order of equal scores open; ONNX's does not
    points = {(int(i) - int(row) * heatmap.shape[1], int(row)) for i, row in zip(indices[0], y[0], strict=True)}
    assert torch.equal(found[0], scores)
    if n is None:
        assert points == {tuple(p) for p in expected.tolist()}
    assert torch.equal(_refine(heatmap[None], expected[None, :, 0], expected[None, :, 1])[0], refine(heatmap, expected))


def test_onnxruntime_orders_equal_scores_by_row_then_column(tmp_path):
    """The rule of the TopK operator, on the plateaus of a synthetic heatmap."""
    from disk.model.onnx.trace import trace, write

    class Best(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.detector = Detector(DISK(desc_dim=1), 6, 3, True)

        def forward(self, heatmap):
            return self.detector._best(heatmap)

    dynamic = torch.export.Dim.DYNAMIC
    described = {"heatmap": "(1, h, w)", "scores": "(1, n)", "points": "(1, n)"}
    shape = {1: dynamic, 2: dynamic}
    graph = trace(Best(), (torch.rand(1, 8, 9),), (shape,), ["heatmap"], ["scores", "points"], optimize=True)
    write(graph, tmp_path / "best.onnx", described, {})
    rng = np.random.default_rng(0)
    for _ in range(20):
        heatmap = rng.integers(-1, 3, (11, 7)).astype(np.float32)
        scores, indices = session(tmp_path / "best.onnx").run(None, {"heatmap": heatmap[None]})
        points, expected = nms(torch.from_numpy(heatmap), 3, 6)
        np.testing.assert_array_equal(scores[0], expected.numpy())
        np.testing.assert_array_equal(indices[0], (points[:, 1] * 7 + points[:, 0]).numpy())


@given(st.integers(0, 1 << 40), st.integers(1, 1 << 16))
def test_division_of_indices_is_exact(number, by):
    assert _divide(torch.tensor(number), by) == number // by


def test_two_images_to_matches(detector, model, tmp_path):
    write_pair(onnx.load(detector), tmp_path / "pair.onnx", ExportOptions(n=N, ratio=0.95))
    assert (tmp_path / "pair.onnx").stat().st_size < 1.2 * detector.stat().st_size  # the weights are stored once
    run = session(tmp_path / "pair.onnx")
    first, second = textured_photo(70, 90, seed=7), textured_photo(70, 90, seed=7)[6:, 9:].copy()
    feed = {"first_images": first[None], "second_images": second[None]}
    keypoints0, keypoints1, matches, distances = run.run(None, feed)
    f0, f1 = model.detect([first, second], n=N)
    expected = disk.match(f0, f1, ratio=0.95)
    np.testing.assert_array_equal(matches, expected.indices.numpy())
    np.testing.assert_allclose(distances, expected.distances.numpy(), atol=1e-4)
    # ground truth: the second image is a crop of the first
    shifts = keypoints0[0, matches[:, 0]] - keypoints1[0, matches[:, 1]]
    assert (np.abs(shifts - [9, 6]).max(1) < 1).mean() > 0.5
    for sizes in ((1, 70), (70, 1), (1, 1)):  # a single pixel has no keypoints
        nothing = {name: first[None, :size, :size] for name, size in zip(feed, sizes, strict=True)}
        assert run.run(["matches"], nothing)[0].shape == (0, 2)


@pytest.fixture(scope="module")
def for_opencv(model, tmp_path_factory):
    return exported(export_for_opencv, model, tmp_path_factory.mktemp("opencv"), n=None)


@pytest.mark.slow
def test_opencv_reads_our_export_and_finds_our_keypoints(for_opencv, model):
    cv2 = pytest.importorskip("cv2", reason="the extra `baselines` is not installed")
    if not hasattr(cv2, "DISK"):
        pytest.skip(f"OpenCV {cv2.__version__} has no cv2.DISK; 5.0 has")
    for height, width in ((96, 128), (64, 48)):
        image = textured_photo(height, width, seed=2)
        detector = cv2.DISK.create(str(for_opencv), maxKeypoints=N, scoreThreshold=0.0, imageSize=(width, height))
        keypoints, descriptors = detector.detectAndCompute(np.ascontiguousarray(image[..., ::-1]), None)
        scores = np.array([k.response for k in keypoints])
        got = np.array([k.pt for k in keypoints]), scores, descriptors
        assert assert_equal(got, image, model, subpixel=False) == len(keypoints) > 40


def test_the_layout_for_opencv_by_onnxruntime(for_opencv, model):
    run = session(for_opencv)
    image = textured_photo(64, 96, seed=4)
    tensor = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
    keypoints, scores, descriptors = run.run(["keypoints", "scores", "descriptors"], {"image": tensor})
    assert keypoints.dtype == np.int64
    assert_equal((keypoints[0], scores[0], descriptors[0]), image, model, n=None, subpixel=False)


def test_impossible_exports_are_refused(model, tmp_path):
    with pytest.raises(DiskError, match="must be odd"):
        exported(export_detector, model, tmp_path, window=4)
    with pytest.raises(DiskError, match="at least 1"):
        exported(export_detector, model, tmp_path, n=0)
    with pytest.raises(DiskError, match="at most 1"):
        exported(export_pair, model, tmp_path, ratio=1.5)
    with pytest.raises(DiskError, match="these weights give 16"):
        exported(export_for_opencv, DISK(desc_dim=16), tmp_path)
    assert not list(tmp_path.iterdir())
