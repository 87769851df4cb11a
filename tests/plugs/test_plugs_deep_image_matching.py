"""Our extractor in deep-image-matching, which is not on PyPI: a stub with its documented layout replaces it.

ExtractorBase and extractor_loader as in deep_image_matching/extractors/extractor_base.py of its repository.
"""

import importlib
import inspect
import sys
from abc import ABC, abstractmethod
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

import disk
from disk.errors import DiskError
from disk.plugs.deep_image_matching import CONFIGURATIONS, register
from textured import textured_photo


class ExtractorBase(ABC):
    _default_conf: ClassVar = {}
    grayscale = True
    as_float = True

    def __init__(self, custom_config):
        self.config = {"extractor": {**self._default_conf, **custom_config.extractor}}
        self._device = "cpu"

    @abstractmethod
    def _extract(self, image): ...

    @abstractmethod
    def _preprocess_tensor(self, image, device="cpu"): ...


def extractor_loader(root, model):
    module_path = f"{root.__name__}.{model}"
    classes = inspect.getmembers(importlib.import_module(module_path), inspect.isclass)
    classes = [c for _, c in classes if c.__module__ == module_path and issubclass(c, ExtractorBase)]
    assert len(classes) == 1
    return classes[0]


@pytest.fixture
def dim(monkeypatch):
    root = "deep_image_matching"
    names = (root, f"{root}.extractors", f"{root}.extractors.extractor_base", f"{root}.config")
    modules = {name: ModuleType(name) for name in names}
    modules[f"{root}.extractors.extractor_base"].ExtractorBase = ExtractorBase
    modules[f"{root}.config"].confs = {"theirs": {}}
    modules[f"{root}.config"].opt_zoo = {"extractors": ["disk"], "matchers": ["lightglue", "kornia_matcher"]}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, f"{root}.extractors.disk_features", None)
    register()
    register()  # registering twice changes nothing
    return modules


def test_it_is_loaded_by_name_and_gives_our_features_of_opencvs_pixels(dim):
    chosen = dim["deep_image_matching.config"].confs["disk-features+kornia_matcher"]["extractor"]
    config = SimpleNamespace(extractor={**chosen, "max_keypoints": 80})
    extractor = extractor_loader(dim["deep_image_matching.extractors"], chosen["name"])(config)
    image = textured_photo(60, 84, seed=1)
    image[..., 2] //= 3  # red and blue differ
    assert extractor.grayscale is False
    found = extractor._extract(image[..., ::-1].astype(np.float32))  # BGR, 0..255
    expected = disk.load("default", "cpu").detect(image, n=80).numpy()
    np.testing.assert_allclose(found["keypoints"], expected["keypoints"], atol=1e-4)
    np.testing.assert_allclose(found["descriptors"], expected["descriptors"].T, atol=1e-4)
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)


def test_configurations_pass_its_checks(dim):
    config = dim["deep_image_matching.config"]
    assert {"theirs", *CONFIGURATIONS} == set(config.confs)
    assert config.opt_zoo["extractors"] == ["disk", "disk_features"]
    for conf in CONFIGURATIONS.values():
        assert conf["extractor"]["name"] in config.opt_zoo["extractors"]
        assert conf["matcher"]["name"] in config.opt_zoo["matchers"]


def test_without_the_program_the_error_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "deep_image_matching", None)
    with pytest.raises(DiskError, match=r"install it from https://github\.com/3DOM-FBK"):
        register()
