"""Training where there is a GPU, which is pretended: what it logs equals that of the CPU."""

from dataclasses import replace

import pytest
import torch
from tiny import TINY, records, weights

from disk.datasets.records import PosedImage
from disk.datasets.synthesis.sampler import SceneSampler
from disk.geometry.camera import Camera
from disk.model import kernels
from disk.model.disk import DISK
from disk.training import distributed, loss
from disk.training.augment import augment
from disk.training.data import TrainingData
from disk.training.distributed import Group, joined
from disk.training.loop import train
from disk.training.schedule import weights_at
from disk.training.step import Objective, accumulate_gradient, tuple_generator

OPTIONS = replace(TINY, n_epochs=1, batch_size=2, chunk_size=2, warmup=1, augment=True, renderers=0)


@pytest.fixture
def plain(monkeypatch):
    """A GPU without Triton, which is much faster here than interpreting its kernels."""
    monkeypatch.setattr(kernels, "has_kernels", lambda device: False)
    monkeypatch.setattr(loss, "has_kernels", lambda device: False)


def assert_same_log(folder, other):
    for one, two in zip(records(folder), records(other), strict=True):
        assert one.keys() == two.keys()
        for name in one:
            if name.startswith("train/"):
                assert two[name] == pytest.approx(one[name], rel=0.02, abs=1e-4), name
            if name.startswith("test/keypoints"):
                assert two[name] == pytest.approx(one[name], rel=0.1)


@pytest.mark.parametrize("kind", ["photos", "data", "mixed"])
def test_the_whole_loop_as_on_the_cpu(kind, photos, data, tmp_path, plain, pretend_cuda):
    source = None if kind == "photos" else data
    options = replace(OPTIONS, synthesize=None if kind == "data" else photos)
    for device in ("cpu", "cuda"):
        train(source, replace(options, device=device, save_dir=tmp_path / device))
    assert_same_log(tmp_path / "cpu", tmp_path / "cuda")
    on_gpu = weights(tmp_path / "cuda" / "final.pth")
    moved = [(on_gpu[name] - value).flatten() for name, value in weights(tmp_path / "cpu" / "final.pth").items()]
    # Adam moves a weight by the learning rate, however small its gradient is; so some move the other way
    assert (torch.cat(moved).abs() < OPTIONS.lr / 5).float().mean() > 0.95
    if kind == "mixed":
        train(source, replace(options, device="cuda:0", save_dir=tmp_path / "cuda", resume=True, n_epochs=2))


def test_with_the_kernels_in_half_precision_and_a_reader(data, tmp_path, pretend_cuda):
    options = replace(TINY, n_epochs=1, chunk_size=1, warmup=1, workers=1, precision="bf16", test_scene_limit=0)
    for device in ("cpu", "cuda"):
        train(data, replace(options, device=device, save_dir=tmp_path / device))
    one, two = (records(tmp_path / device)[0] for device in ("cpu", "cuda"))
    assert two["train/keypoints_per_image"] == pytest.approx(one["train/keypoints_per_image"], rel=0.1)


def test_scenes_are_those_of_the_cpu_and_augmented_alike(photos, pretend_cuda):
    here, there = (SceneSampler(photos, 48, 64, 2, device, 0).render([0, 1, 2]) for device in ("cpu", "cuda"))
    assert there.images.is_cuda
    for name in ("images", "depths", "K", "R", "t"):
        torch.testing.assert_close(getattr(there, name).cpu(), getattr(here, name), rtol=1e-3, atol=1e-3)
    seeds = [[torch.Generator().manual_seed(i) for i in range(3)] for _ in range(2)]
    torch.testing.assert_close(augment(there.images, seeds[0]).cpu(), augment(here.images, seeds[1]), rtol=0, atol=0.02)


def test_a_renderer_works_on_the_device_of_the_training(photos, monkeypatch, pretend_cuda):
    """What its process runs, here in this one."""
    from disk.training import rendering

    job = TrainingData(None, replace(OPTIONS, synthesize=photos), Group(0, 1, torch.device("cuda", 1))).job
    made = []
    monkeypatch.setattr(rendering, "leave_signals_to_parent", lambda: None)
    monkeypatch.setattr(rendering, "_put", lambda queue, item: made.append(item))
    rendering._work(None, job, lambda: iter([rendering.RenderGroup([0, 1], [0, 1])]), 0, 1)
    (tuples,) = made
    assert not isinstance(tuples, Exception), tuples
    assert tuples.images.device.type == "cpu"
    assert pretend_cuda.thread.device == 1
    picked = rendering.pick(tuples, slice(0, 1), torch.device("cuda", 0))
    assert picked.images.device == torch.device("cuda", 0)
    assert picked.images.dtype == torch.float32


def test_a_process_takes_its_gpu(pretend_cuda, monkeypatch):
    for device, index in (("cuda", 0), ("cuda:1", 1), ("auto", 1)):
        with joined(device) as group:
            assert group.device == torch.device("cuda", index)
            assert pretend_cuda.thread.device == index
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert distributed._own_gpu("cuda", 2) == torch.device("cuda", 1)


def test_a_step_waits_only_for_the_numbers_of_keypoints(photos, plain, monkeypatch, pretend_cuda):
    """And preparing the next batch for nothing: it is made while the GPU works on the gradient of this one."""
    monkeypatch.setattr(loss, "has_kernels", lambda device: True)  # plain torch finds the wrong matches with `nonzero`
    model = DISK(8).to("cuda:0")
    tuples = SceneSampler(photos, 32, 32, 2, "cuda:0", 0).tuples([0, 1])
    generators = [tuple_generator(0, i, "keypoints", torch.device("cuda", 0)) for i in range(2)]
    waited = pretend_cuda.waits
    accumulate_gradient(model, tuples, generators, Objective(weights=weights_at("default", 5), share=0.4))
    assert pretend_cuda.waits == waited + 2
    images = torch.stack([torch.stack([view.image for view in views]) for views in tuples]).repeat(8, 1, 1, 1, 1)
    waited = pretend_cuda.waits
    augment(images, [torch.Generator().manual_seed(i) for i in range(16)])
    read = PosedImage(images[0, 0].cpu(), Camera(torch.eye(3), torch.eye(3), torch.zeros(3)), torch.ones(32, 32), "a")
    waited += 1
    assert read.pin_memory().to("cuda").depth.is_cuda
    assert pretend_cuda.waits == waited


def test_a_step_while_another_device_is_current(photos, pretend_cuda):
    model = DISK(8).to("cuda:0")
    tuples = SceneSampler(photos, 32, 32, 2, "cuda:0", 0).tuples([0])
    found = []
    for current in (0, 1):
        with torch.cuda.device(current):
            generators = [tuple_generator(0, 0, "keypoints", torch.device("cuda", 0))]
            found.append(accumulate_gradient(model, tuples, generators, Objective(weights=weights_at("default", 5))))
    assert torch.equal(*found)
