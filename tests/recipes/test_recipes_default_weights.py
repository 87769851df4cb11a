"""The recipe of the default weights runs through its stages, in one call or in several."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from disk.datasets.synthesis.write import SynthesizeOptions, synthesize
from disk.model.checkpoints import load, save
from disk.model.disk import DISK
from disk.training.data import Mix
from disk.training.schedule import weights_at
from script import load_script


def _module() -> ModuleType:
    return load_script("recipes/default_weights.py")


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The recipe with stages of two tiny steps."""
    module = _module()
    tiny = {
        name: replace(options, n_epochs=1, chunk_size=2, warmup=2, height=64, width=64)
        for name, options in module.STAGES["cpu"].items()
    }
    monkeypatch.setattr(module, "STAGES", {"cpu": tiny})
    monkeypatch.setattr(module, "RECENTRED_ON", 1)
    return module


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """OUT with prepared data: photos, and rendered scenes instead of the real ones."""
    data = tmp_path / "out" / "data"
    (data / "photos").mkdir(parents=True)
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((160, 160), Image.Resampling.BICUBIC).save(data / "photos" / f"{number}.png")
    synthesize(data / "photos", data / "train", SynthesizeOptions(scenes=2, views=3, height=64, width=64, device="cpu"))
    return data.parent


def test_stages_run_in_order_and_only_once(recipe: ModuleType, prepared: Path) -> None:
    recipe.main(Path("not read"), prepared, minutes=0)
    assert [path.name for path in prepared.iterdir()] == ["data"]
    recipe.main(Path("not read"), prepared)
    final = prepared / "default.pth"
    load(final)
    written = final.stat().st_mtime_ns
    recipe.main(Path("not read"), prepared)
    assert final.stat().st_mtime_ns == written


def test_recentring_scales_and_moves_the_heatmap(recipe: ModuleType, prepared: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    before = DISK()
    save(before, tmp_path / "before.pth")
    recipe.recentre(tmp_path / "before.pth", prepared / "data" / "photos", tmp_path / "after.pth", (-2.0, 2.0))
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        old, new = (m.heatmap(m.encode(images)).flatten() for m in (before, load(tmp_path / "after.pth")))
    scale = (new - new.mean()).norm() / (old - old.mean()).norm()
    assert scale != pytest.approx(1, rel=0.1)
    torch.testing.assert_close(new - new.mean(), scale * (old - old.mean()), atol=1e-3, rtol=1e-3)


def test_starting_from_weights_skips_the_first_stage(recipe: ModuleType, prepared: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(DISK(), tmp_path / "start.pth")
    recipe.main(Path("not read"), prepared, start=str(tmp_path / "start.pth"))
    assert not (prepared / "coarse").exists()
    load(prepared / "default.pth")


def test_the_stages_of_a_gpu() -> None:
    """Eight triplets per step, six of them rendered, theta 18, along a cosine."""
    stages = _module().STAGES["cuda"]
    for options in stages.values():
        options.check()
    fine = stages["fine"]
    mix = Mix(fine.synthetic_share, fine.batch_size, 0, 1)
    assert [sum(map(mix.is_rendered, mix.numbers(batch))) for batch in range(5)] == [6] * 5
    weights = weights_at(fine.schedule, fine.epoch_offset, fine.keypoint_penalty)
    assert (weights.theta, weights.negative, weights.keypoint) == pytest.approx((18, -0.175, -0.0007))
    assert fine.step(fine.epoch_offset + fine.n_epochs, 0) == 1750


@pytest.mark.gpu
def test_training_on_a_gpu_stops_and_resumes(
    recipe: ModuleType, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the options of the real stages, but smaller images and two batches."""
    fine = replace(
        _module().STAGES["cuda"]["fine"], chunk_size=2, height=64, width=64, renderers=0, workers=0, precision="fp32"
    )
    monkeypatch.setattr(recipe, "STAGES", {"cuda": {"coarse": fine, "fine": fine}})
    torch.manual_seed(0)
    save(DISK(), tmp_path / "start.pth")
    call = {"start": str(tmp_path / "start.pth"), "device": "cuda"}
    recipe.main(Path("not read"), prepared, minutes=1e-6, **call)
    assert not (prepared / "default.pth").exists()
    recipe.main(Path("not read"), prepared, **call)
    before, after = load(prepared / "start.pth"), load(prepared / "default.pth")
    # a convolution in the middle, which recentring does not touch
    first, last = (model.unet.path_down[2][-1][-1].weight for model in (before, after))
    assert not torch.equal(first, last)
    steps = [json.loads(line)["step"] for line in (prepared / "fine" / "log.jsonl").read_text().splitlines()]
    assert steps[-1] == 2


def test_photos_are_shrunk_until_they_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders with files of the same name; half of the bytes of the first attempt are allowed."""
    recipe = _module()
    monkeypatch.setattr(recipe, "merge", lambda sources, out, relative: None)
    for seed, name in enumerate(("photos", "photos2")):
        (tmp_path / name).mkdir()
        noise = np.random.default_rng(seed).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name / "a.png")
    sizes = []
    for limit in (1e9, 4e5):
        monkeypatch.setattr(recipe, "MAX_BYTES", limit)
        out = tmp_path / str(limit)
        recipe.prepare([tmp_path / "photos", tmp_path / "photos2"], [], out)
        files = sorted(out.rglob("*.jpg"))
        assert [file.parent.name for file in files] == ["photos", "photos2"]
        sizes.append(Image.open(files[0]).size)
    assert sizes[0] == (1024, 768)
    assert sizes[1][0] < 1024
    assert sum(file.stat().st_size for file in files) <= 4e5
