"""Our extractor in hloc, which is not on PyPI: a stub with its documented layout replaces it.

BaseModel, dynamic_load and the use of an extractor as in hloc/utils/base_model.py and hloc/extract_features.py.
"""

import importlib
import inspect
import sys
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest
import torch

import disk
from disk.errors import DiskError
from disk.plugs.hloc import FEATURES, register
from textured import textured_photo


class BaseModel(torch.nn.Module):
    default_conf: ClassVar = {}
    required_inputs: ClassVar = []

    def __init__(self, conf):
        super().__init__()
        self.conf = conf = {**self.default_conf, **conf}
        self._init(conf)

    def forward(self, data):
        assert all(key in data for key in self.required_inputs)
        return self._forward(data)


def dynamic_load(root, model):
    module_path = f"{root.__name__}.{model}"
    module = importlib.import_module(module_path)
    classes = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module_path]
    classes = [c for c in classes if issubclass(c, BaseModel)]
    assert len(classes) == 1
    return classes[0]


@pytest.fixture
def hloc(monkeypatch):
    modules = {
        name: ModuleType(name)
        for name in ("hloc", "hloc.utils", "hloc.utils.base_model", "hloc.extractors", "hloc.extract_features",
                     "hloc.match_features")
    }  # fmt: skip
    modules["hloc.utils.base_model"].BaseModel = BaseModel
    for name in ("hloc.extract_features", "hloc.match_features"):
        modules[name].confs = {"theirs": {}}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "hloc.extractors.disk_features", None)  # so that ours is removed afterwards
    register()
    return modules


def test_hloc_loads_it_by_name_and_gets_our_features(hloc):
    conf = hloc["hloc.extract_features"].confs["disk-features"]
    conf = {**conf, "model": {**conf["model"], "max_keypoints": 100}}
    model = dynamic_load(hloc["hloc.extractors"], conf["model"]["name"])(conf["model"]).eval().to("cpu")
    image = textured_photo(60, 84, seed=1)
    with torch.no_grad():
        pred = model({"image": torch.from_numpy(image.astype(np.float32).transpose(2, 0, 1) / 255)[None]})
    pred = {k: v[0].cpu().numpy() for k, v in pred.items()}  # as extract_features.main does
    expected = disk.load("default", "cpu").detect(image, n=100).numpy()
    np.testing.assert_allclose(pred["keypoints"], expected["keypoints"], atol=1e-4)
    np.testing.assert_allclose(pred["keypoint_scores"], expected["scores"], atol=1e-4)
    np.testing.assert_allclose(pred["descriptors"], expected["descriptors"].T, atol=1e-4)


def test_configurations_are_added_to_hlocs(hloc):
    features, matchers = hloc["hloc.extract_features"].confs, hloc["hloc.match_features"].confs
    assert {"theirs", *FEATURES} == set(features)
    assert {"theirs", "disk-features+mnn", "disk-features+lightglue"} == set(matchers)
    assert all({"output", "model", "preprocessing"} == set(conf) for conf in FEATURES.values())
    assert len({conf["output"] for conf in FEATURES.values()}) == len(FEATURES)  # separate files


def test_without_hloc_the_error_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "hloc", None)
    with pytest.raises(DiskError, match=r"install it from https://github\.com/cvg") as caught:
        register()
    assert "\n" not in str(caught.value)
