"""Rendered tuples as training uses them, and the data set written from them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from disk.cli.main import main
from disk.datasets.check import check
from disk.datasets.records import PosedImage
from disk.datasets.scenes import SceneSet
from disk.datasets.synthesis import render
from disk.datasets.synthesis.sampler import SceneSampler
from disk.datasets.synthesis.write import SynthesizeOptions, synthesize
from disk.datasets.tuples import TupleDataset
from disk.errors import DatasetError, DiskError
from disk.geometry.camera import project, relative_pose, unproject


def photo(seed: int, low: int = 0, high: int = 255) -> np.ndarray:
    """A smooth coloured pattern with edges."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 2, (12, 16, 3)) * 120 + generator.integers(0, 136, (12, 16, 3))
    large = Image.fromarray(small.astype(np.uint8)).resize((320, 240), Image.Resampling.BICUBIC)
    return (low + np.asarray(large) / 255 * (high - low)).astype(np.uint8)


PHOTOS = [photo(seed) for seed in range(5)]


@pytest.fixture(scope="module")
def sampler() -> SceneSampler:
    return SceneSampler(PHOTOS, 50, 70, 2, "cpu", 7)


def mutual(first: PosedImage, second: PosedImage) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours (n, 3) of pixels of one image and of the same points in the other, where visible there."""
    assert first.depth is not None
    assert second.depth is not None
    height, width = first.depth.shape
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    at = torch.stack([xs, ys], -1).flatten(0, 1).float()
    there, z = project(second.camera, unproject(first.camera, at, first.depth.flatten()))
    size = torch.tensor([width, height])
    grid = ((there + 0.5) / size * 2 - 1)[None, None]
    sample = torch.nn.functional.grid_sample
    colours = sample(second.image[None], grid, align_corners=False)[0, :, 0].T
    depth = sample(second.depth[None, None], grid, align_corners=False)[0, 0, 0]
    seen = (first.depth.flatten() > 0) & (z > 0) & ((there > 1) & (there < size - 2)).all(1)
    seen &= (depth - z).abs() < 0.01 * z
    return first.image.flatten(1).T[seen], colours[seen]


def test_colours_agree_where_depth_agrees(sampler: SceneSampler) -> None:
    here, there = zip(*(mutual(*views) for views in sampler.tuples(range(6))), strict=True)
    first, second = torch.cat(here), torch.cat(there)
    assert len(first) > 5000
    assert (first - second).abs().mean() < 0.02
    shuffled = second[torch.randperm(len(second), generator=torch.Generator().manual_seed(0))]
    assert (first - shuffled).abs().mean() > 0.15


def test_records_are_as_training_expects(sampler: SceneSampler) -> None:
    batch = sampler.tuples([6, 7])
    assert [len(views) for views in batch] == [2, 2]
    for view in batch[0] + batch[1]:
        assert view.image.shape == (3, 50, 70)
        assert view.image.dtype == torch.float32
        assert view.image.min() >= 0
        assert view.image.max() <= 1
        assert view.depth is not None
        assert view.depth.shape == (50, 70)
        assert view.camera.K.dtype == view.camera.R.dtype == torch.float32
    assert len({view.name for views in batch for view in views}) == 4


def test_a_tuple_depends_only_on_seed_and_number(sampler: SceneSampler) -> None:
    again = SceneSampler(PHOTOS, 50, 70, 2, "cpu", 7)
    first = sampler.tuples([4])[0]
    sampler.tuples([9])
    for view, other in zip(first, again.tuples([4])[0], strict=True):
        assert torch.equal(view.image, other.image)
        assert torch.equal(view.depth, other.depth)
        assert torch.equal(view.camera.t, other.camera.t)
    # the same in a batch with others, up to rounding
    alone = [sampler.tuples([number])[0] for number in range(8)]
    for one, other in zip(alone, sampler.tuples(range(8)), strict=True):
        for view, same in zip(one, other, strict=True):
            assert torch.equal(view.camera.R, same.camera.R)
            assert ((view.image - same.image).abs() > 1e-2).float().mean() < 1e-3
    different = SceneSampler(PHOTOS, 50, 70, 2, "cpu", 8).tuples([4])[0]
    assert not torch.equal(first[0].camera.t, different[0].camera.t)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_renders_the_same(sampler: SceneSampler) -> None:
    there = SceneSampler(PHOTOS, 50, 70, 2, "cuda", 7).tuples(range(8))
    for one, other in zip(sampler.tuples(range(8)), there, strict=True):
        for view, same in zip(one, other, strict=True):
            assert same.image.device.type == "cuda"
            assert ((view.image - same.image.cpu()).abs() > 1e-2).float().mean() < 5e-3


def test_no_pixel_is_black_or_magnified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos without dark areas give images without any: no border or gap is visible."""
    sides = []

    def spy(store, photo, position, jacobian):  # type: ignore[no-untyped-def]
        a, b, c, d = jacobian.double()
        sides.append(torch.linalg.svdvals(torch.stack([a, b, c, d], -1).view(-1, 2, 2))[:, 0])
        return lookup(store, photo, position, jacobian)

    lookup = render.lookup
    monkeypatch.setattr(render, "lookup", spy)
    bright = SceneSampler([photo(seed, 120, 250) for seed in range(3)], 48, 48, 3, "cpu", 1)
    images = torch.stack([view.image for views in bright.tuples(range(8)) for view in views])
    assert images.min() > 0.15  # the darkest photo in the weakest light
    texels_per_pixel = torch.cat(sides)
    assert (texels_per_pixel < 0.6).float().mean() < 0.01


def test_reads_a_folder_of_photos(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "deep").mkdir()
    Image.fromarray(photo(1)).save(tmp_path / "a.png")
    Image.fromarray(photo(2)).save(tmp_path / "deep" / "b.JPG", quality=90)
    Image.fromarray(np.zeros((2000, 1500), np.uint8)).save(tmp_path / "large.png")
    Image.fromarray(np.zeros((60, 60), np.uint8)).save(tmp_path / "small.png")
    sampler = SceneSampler(tmp_path, 32, 32, 2, "cpu", 0)
    assert len(sampler.store) == 3
    assert sampler.store.sizes.max() <= 1024
    assert "skipping" in caplog.text


def test_unusable_folders(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        SceneSampler(tmp_path / "nowhere", 32, 32, 2, "cpu", 0)
    with pytest.raises(DatasetError, match="no images"):
        SceneSampler(tmp_path, 32, 32, 2, "cpu", 0)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(DiskError, match=r"broken\.jpg"):
        SceneSampler(tmp_path, 32, 32, 2, "cpu", 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for seed, pixels in enumerate(PHOTOS):
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{seed}.png")
    return tmp_path


def test_the_written_data_set_equals_the_rendering(folder: Path) -> None:
    options = SynthesizeOptions(scenes=2, views=3, height=48, width=64, seed=5)
    synthesize(folder / "photos", folder / "out", options)
    shutil.move(folder / "out", folder / "moved")  # folders in the json are relative
    scenes = SceneSet.load(folder / "moved")
    assert [scene.tuples.tolist() for scene in scenes.scenes] == [[[0, 1, 2]]] * 2
    read = TupleDataset(scenes, 48, 64, 10, 0)
    sampler = SceneSampler(folder / "photos", 48, 64, 3, "cpu", 5)
    rendered = [sampler.tuples([number])[0] for number in range(2)]
    found = sorted((read[i] for i in range(2)), key=lambda views: views[0].name)
    for written, original in zip(found, rendered, strict=True):
        written = sorted(written, key=lambda view: view.name)
        for view, expected in zip(written, original, strict=True):
            assert torch.equal(view.depth, expected.depth)
            assert torch.equal(view.camera.K, expected.camera.K)
            # readers may move the origin of the world
            pose = relative_pose(written[0].camera, view.camera)
            for part, other in zip(pose, relative_pose(original[0].camera, expected.camera), strict=True):
                torch.testing.assert_close(part, other, rtol=0, atol=2e-6)
            assert (view.image - expected.image).abs().mean() < 0.01
    assert all(not report.problems for report in check(folder / "moved"))


def test_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["dataset", "synthesize", str(folder / "photos"), str(folder / "out")]
    assert main([*arguments, "--scenes", "1", "--views", "2", "--height", "32", "--width", "40", "--seed", "3"]) == 0
    assert (folder / "out" / "dataset.json").is_file()
    assert Image.open(folder / "out" / "images" / "scene-000000" / "1.jpg").size == (40, 32)
    assert main(arguments) == 2
    assert "already exists" in capsys.readouterr().err
    other = [*arguments[:3], str(folder / "other")]
    assert main([*other, "--views", "1"]) == 2
    assert main([*other, "--scenes", "0"]) == 2
    assert main([*other, "--seed", "-1"]) == 2
    errors = capsys.readouterr().err
    assert "--views 1" in errors
    assert "--scenes 0" in errors
    assert "--seed -1" in errors
