"""The ONNX graphs are what torch exports today."""

import numpy as np
import onnx
import onnxruntime
import torch

from disk.model.disk import DISK
from disk.model.onnx import _GRAPH, export, export_coarse_graph


def test_the_shipped_graph_is_that_of_the_network():
    shipped, fresh = onnx.load(_GRAPH).graph, export_coarse_graph().graph
    assert [n.op_type for n in shipped.node] == [n.op_type for n in fresh.node]
    assert [list(n.input) for n in shipped.node] == [list(n.input) for n in fresh.node]
    named = {i.name for i in shipped.initializer}
    coarse = {n for n in DISK().state_dict() if n.startswith(("unet.path_down", "unet.path_up.0"))}
    assert named == coarse


def test_exported_network_equals_torch_at_another_size(tmp_path):
    torch.manual_seed(1)
    model = DISK(desc_dim=16)
    export(model, tmp_path / "disk.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "disk.onnx", providers=["CPUExecutionProvider"])
    images = torch.rand(3, 3, 32, 80)
    heatmap, descriptors = session.run(["heatmap", "descriptors"], {"images": images.numpy()})
    with torch.no_grad():
        expected = model(images)
    np.testing.assert_allclose(heatmap, expected[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(descriptors, expected[1].numpy(), atol=1e-4)
