"""The commands where there is a GPU, which is pretended: against the CPU."""

import numpy as np
import pytest
import torch
from PIL import Image

from disk.cli.main import main
from disk.evaluation.options import FeatureOptions
from disk.evaluation.sources import open_sources
from disk.model import kernels
from disk.pipeline import doctor
from disk.pipeline.libraries import Library
from disk.pipeline.match_options import MatchOptions
from disk.pipeline.match_photos import PhotoOptions, match_photos
from disk.storage.artifacts import read_features, read_matches
from pretend_cuda import COUNT

pytestmark = pytest.mark.usefixtures("pretend_cuda")


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    """The network without Triton, which is much faster here than interpreting its kernels."""
    monkeypatch.setattr(kernels, "has_kernels", lambda device: False)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "auto"])
def test_detect_and_match(photo_folder, tmp_path, device):
    options = ["--n", "40", "--precision", "fp32"]
    for place in ("cpu", device):
        out = str(tmp_path / place)
        assert main(["detect", out, str(photo_folder), "--device", place, *options]) == 0
        assert main(["match", out, "--device", place, "--pairs", "retrieval", "--top-k", "2"]) == 0
    with read_features(tmp_path / "cpu") as here, read_features(tmp_path / device) as there:
        for name in here:
            assert torch.cdist(here[name].keypoints, there[name].keypoints).amin(1).max() < 0.1
    with read_matches(tmp_path / "cpu") as here, read_matches(tmp_path / device) as there:
        assert {*here.pairs()} == {*there.pairs()}
        for pair in here.pairs():
            assert abs(here[pair].shape[1] - there[pair].shape[1]) <= 2


def test_two_photos(photo_folder):
    counts = []
    for place in ("cpu", "cuda:1"):
        photos = [photo_folder / "a.jpg", photo_folder / "sub" / "d.jpg"]
        found = match_photos(*photos, MatchOptions(device=place), PhotoOptions(n=40))
        assert found.matches.indices.device.type == "cpu"
        counts.append(len(found.matches))
    assert abs(counts[0] - counts[1]) <= 2


def test_evaluation_gets_features_on_the_cpu(photo_folder, tmp_path):
    photo = np.asarray(Image.open(photo_folder / "a.jpg"))
    (source,) = open_sources(FeatureOptions(device="cuda", n=40, cache=tmp_path))
    found = source._detect(photo, 40)
    assert found.keypoints.device.type == "cpu"


def test_the_doctor_sees_the_gpus(monkeypatch):
    monkeypatch.setattr("disk.matching.nearest._kernel", lambda device: None)
    machine = doctor._machine(Library("triton", "3.6.0", None))
    assert machine.device == "cuda:0"
    assert len(machine.gpus) == COUNT
    assert machine.precision == "fp16"
    check = doctor._check()
    assert check.problem is None
    assert check.backend == "torch on cuda:0"
