"""The coarse graph that ships, filled with any weights, and the dense export."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from disk.model.disk import DISK
from disk.model.onnx import coarse_session
from disk.model.onnx.coarse import GRAPH
from disk.model.onnx.export import export_coarse_graph, export_dense
from disk.model.onnx.runtime import import_onnxruntime, session_options


@pytest.fixture
def model():
    torch.manual_seed(1)
    return DISK(desc_dim=16).eval()


def wiring(graph):
    """The inputs of every node, values between nodes numbered: their names depend on the version of torch."""
    number = {name: at for at, name in enumerate(name for node in graph.node for name in node.output)}
    return [[number.get(name, name) for name in node.input] for node in graph.node]


@pytest.mark.slow
def test_the_shipped_graph_equals_that_of_the_network():
    shipped, fresh = onnx.load(GRAPH, load_external_data=False).graph, export_coarse_graph().graph
    assert [n.op_type for n in shipped.node] == [n.op_type for n in fresh.node]
    assert wiring(shipped) == wiring(fresh)
    named = {i.name for i in shipped.initializer}
    coarse = {n for n in DISK().state_dict() if n.startswith(("unet.path_down", "unet.path_up.0"))}
    assert named == coarse


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_session_has_the_weights_of_its_model(model, dtype):
    model = model.to(dtype)
    session = coarse_session(model, threads=1)
    images = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        expected = model.float().unet.coarse(images)
        for parameter in model.parameters():
            parameter.zero_()  # the session has copies
    for got, wanted in zip(session.run(None, {"images": images.numpy()}), expected, strict=True):
        np.testing.assert_allclose(got, wanted.numpy(), atol=1e-4)


def test_inference_needs_neither_onnx_nor_onnxscript():
    code = """
import sys
sys.modules.update({"onnx": None, "onnxscript": None})
import torch, disk
model = disk.load(device="cpu", backend="onnx")
print(model.engine.name, len(model.detect(torch.rand(3, 64, 64), n=5)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "onnx 5\n"


@pytest.mark.slow
def test_the_dense_export_equals_torch_at_another_size(model, tmp_path):
    export_dense(model, tmp_path / "disk.onnx")
    session = import_onnxruntime().InferenceSession(tmp_path / "disk.onnx", session_options(1))
    images = torch.rand(3, 3, 32, 80)
    heatmap, descriptors = session.run(["heatmap", "descriptors"], {"images": images.numpy()})
    with torch.no_grad():
        expected = model(images)
    np.testing.assert_allclose(heatmap, expected[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(descriptors, expected[1].numpy(), atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["disk.onnx"]
