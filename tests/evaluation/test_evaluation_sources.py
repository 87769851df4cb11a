from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import h5py
import numpy as np
import pytest
import torch
from evaluation_world import photo, unit, write_artifacts
from PIL import Image, ImageOps

import disk
from disk.errors import ArtifactError, DiskError, EvaluationError, MissingExtraError
from disk.evaluation import sources
from disk.evaluation.baselines import detect_baseline
from disk.evaluation.ground_truth import View
from disk.evaluation.sources import FeatureOptions, Matcher, StoredFeatures, degrade, describe, open_sources, read_view
from disk.features import Features, Matches
from disk.images.reading import Upright
from disk.pipeline.match import MatchOptions, match
from disk.storage.artifacts import read_matches


def spots(image: np.ndarray, n: int) -> Features:
    """A detector that finds the pixels that are pure red."""
    y, x = np.nonzero((image == [255, 0, 0]).all(axis=2))
    points = torch.from_numpy(np.stack([x, y], 1)).float()[:n]
    return Features(points, torch.ones(len(points), 1), torch.ones(len(points)))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
@pytest.mark.parametrize("tag", [1, 6, 7])
def test_features_of_a_turned_image_come_back_to_the_stored_one(tmp_path, turns, tag):
    """Turns of the ground truth are of the stored image, and take the place of its EXIF orientation."""
    image = np.zeros((30, 50, 3), np.uint8)
    image[7, 41] = image[20, 3] = [255, 0, 0]
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    upright = read_view(View(tmp_path / "a.png", "a", turns))
    expected = np.rot90(image, turns) if turns else ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    np.testing.assert_array_equal(upright.pixels, expected)
    found = describe(upright, spots, 10, 0)
    assert sorted(map(tuple, found.keypoints.tolist())) == [(3, 20), (41, 7)]


@pytest.mark.parametrize(
    ("turns", "tag", "point", "size"),
    [
        (0, 1, (41, 7), (50, 30)),
        (1, 1, (7, 8), (30, 50)),
        (2, 1, (8, 22), (50, 30)),
        (3, 1, (22, 41), (30, 50)),
        (0, 6, (22, 41), (30, 50)),
        (0, 8, (7, 8), (30, 50)),
        (2, 6, (8, 22), (50, 30)),
    ],
)
def test_lightglue_is_given_upright_positions_and_sizes(tmp_path, recorded, turns, tag, point, size):
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.new("RGB", (50, 30)).save(tmp_path / "a.png", exif=exif)
    Image.new("RGB", (64, 20)).save(tmp_path / "b.png")
    stored = {
        "a": Features(torch.tensor([[41.0, 7.0]]), torch.ones(1, 128), torch.ones(1)),
        "b": Features(torch.tensor([[5.0, 6.0]]), torch.ones(1, 128), torch.ones(1)),
    }

    class Stored(StoredFeatures):
        def __init__(self):
            pass

        def features(self, view):
            return stored[view.name]

    options, calls = recorded
    Matcher(options).match(Stored(), View(tmp_path / "a.png", "a", turns), View(tmp_path / "b.png", "b"), None)
    f0, f1, size0, size1 = calls[0]
    assert (f0.keypoints.tolist(), size0) == ([list(point)], size)
    assert (f1.keypoints.tolist(), size1) == ([[5.0, 6.0]], (64, 20))


def test_features_of_a_shrunk_image_come_back_by_the_half_pixel_rule():
    def middle(image: np.ndarray, n: int) -> Features:
        assert image.shape == (20, 40, 3)
        return Features(torch.tensor([[19.5, 9.5], [0.0, 0.0]]), torch.ones(2, 1), torch.ones(2))

    found = describe(Upright(np.zeros((40, 80, 3), np.uint8), 1), middle, 10, 40)
    assert found.keypoints.tolist() == [[39.5, 19.5], [0.5, 0.5]]


def test_degraded_images_are_darker_flatter_and_the_same_every_time():
    image = np.tile(np.linspace(0, 255, 256).astype(np.uint8)[None, :, None], (200, 1, 3))
    spoilt = degrade(image, seed=0)
    curve = spoilt.mean(axis=(0, 2)) / 255
    power = (np.arange(256) / 255) ** 2.2
    expected = power.mean() + 0.5 * (power - power.mean())
    np.testing.assert_allclose(curve, expected, atol=0.006)
    assert spoilt.std(axis=0).mean() / 255 == pytest.approx(0.03, rel=0.05)
    np.testing.assert_array_equal(spoilt, degrade(image, seed=0))
    assert (spoilt != degrade(image, seed=1)).any()


@pytest.mark.parametrize(("method", "length"), [("sift", 128), ("rootsift", 128), ("orb", 256)])
def test_baselines_have_unit_descriptors_best_first_at_most_n(method, length):
    image = photo(240, 320)
    found = detect_baseline(method, image, 100)
    assert 50 < len(found) <= 100
    assert found.descriptors.shape == (len(found), length)
    torch.testing.assert_close(torch.linalg.vector_norm(found.descriptors, dim=1), torch.ones(len(found)))
    assert (found.scores[:-1] >= found.scores[1:]).all()
    assert len(detect_baseline(method, np.zeros((64, 64, 3), np.uint8), 100)) == 0


def test_rootsift_is_the_root_of_sift_and_orb_keeps_hamming_distances():
    image = photo(240, 320)
    sift, root = detect_baseline("sift", image, 50), detect_baseline("rootsift", image, 50)
    expected = torch.sqrt(sift.descriptors / sift.descriptors.sum(dim=1, keepdim=True))
    torch.testing.assert_close(root.descriptors, expected, atol=1e-5, rtol=1e-4)
    orb = detect_baseline("orb", image, 50).descriptors
    differing = (orb[0] != orb[1:]).sum(dim=1)
    torch.testing.assert_close(((orb[0] - orb[1:]) ** 2).sum(dim=1), differing / 64)


def test_baselines_need_opencv(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MissingExtraError, match="baselines"):
        detect_baseline("sift", np.zeros((8, 8, 3), np.uint8), 10)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The baselines that ran, in order; the detection itself is OpenCV's."""
    calls: list[str] = []

    def count(method: str, image: np.ndarray, n: int) -> Features:
        calls.append(method)
        return detect_baseline(method, image, n)

    monkeypatch.setattr(sources, "detect_baseline", count)
    return calls


def write_photo(path: Path, seed: int = 0) -> View:
    Image.fromarray(photo(96, 128, seed)).save(path)
    return View(path, path.stem)


def test_features_are_found_once_and_kept(tmp_path, counted):
    view = write_photo(tmp_path / "a.png")
    options = FeatureOptions(method=("sift",), n=50, cache=tmp_path / "kept")
    (first,) = open_sources(options)
    seconds = first.prepare([view, view])
    found = first.features(view)
    assert counted == ["sift"]
    (second,) = open_sources(options)
    assert second.prepare([view]) == seconds
    torch.testing.assert_close(second.features(view).keypoints, found.keypoints, atol=0, rtol=0)
    assert counted == ["sift"]


def test_whatever_decides_the_features_finds_them_anew(tmp_path, counted):
    view = write_photo(tmp_path / "a.png")

    def runs(view: View, **options: object) -> int:
        before = len(counted)
        (source,) = open_sources(FeatureOptions(**{"method": ("sift",), "n": 50, **options}))
        source.prepare([view])
        return len(counted) - before

    assert runs(view) == 1
    assert runs(view) == 0
    assert runs(view, n=51) == 1
    assert runs(view, max_size=64) == 1
    assert runs(view, method=("rootsift",)) == 1
    assert runs(view, degrade=True) == 0  # only the second image of a pair is spoilt
    second = View(view.path, view.name, second=True)
    assert runs(second) == 0
    assert runs(second, degrade=True) == 1
    assert runs(second, degrade=True, seed=1) == 1
    assert runs(View(view.path, view.name, turns=1)) == 1
    write_photo(view.path, seed=5)  # the same name, another image
    assert runs(view) == 1


def test_a_damaged_file_of_the_cache_is_replaced(tmp_path, counted):
    view = write_photo(tmp_path / "a.png")
    options = FeatureOptions(method=("sift",), n=50, cache=tmp_path / "kept")
    open_sources(options)[0].prepare([view])
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    (source,) = open_sources(options)
    source.prepare([view])
    assert len(counted) == 2
    assert len(source.features(view)) > 0


def test_the_cache_loses_what_was_not_used_for_longest(tmp_path):
    import os

    for age, name in enumerate(["new", "mid", "old", "needed"]):
        file = tmp_path / f"{name}.npz"
        file.write_bytes(bytes(100))
        os.utime(file, (1000 - age, 1000 - age))
    sources._prune(tmp_path, keep={tmp_path / "needed.npz"}, limit=200)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["mid", "needed", "new"]


def test_disk_is_what_the_model_detects(tmp_path):
    from disk.model.checkpoints import load

    view = write_photo(tmp_path / "a.png")
    (source,) = open_sources(FeatureOptions(n=20, device="cpu"))
    assert source.label == "disk"
    source.prepare([view])
    found, expected = source.features(view), load().detect(photo(96, 128), n=20, subpixel=True)
    torch.testing.assert_close(found.keypoints, expected.keypoints)
    torch.testing.assert_close(found.descriptors, expected.descriptors, atol=1e-4, rtol=1e-4)


def test_methods_side_by_side(tmp_path):
    from disk.model.checkpoints import load, save

    save(load(), tmp_path / "other.safetensors")
    weights = ("default", str(tmp_path / "other.safetensors"))
    found = open_sources(FeatureOptions(method=("orb", "disk"), weights=weights))
    assert [source.label for source in found] == ["orb", "disk default", f"disk {weights[1]}"]


def write_layout(layout: str, folder: Path, keypoints: np.ndarray, descriptors: np.ndarray, scores: np.ndarray) -> Path:
    """hloc's layout with the name of its scores behind a colon, or ours."""
    folder.mkdir()
    if layout.startswith("hloc"):
        with h5py.File(folder / "feats.h5", "w") as file:
            group = file.create_group("sub/a.jpg")
            group["keypoints"], group["descriptors"] = keypoints, descriptors.T
            if layout != "hloc":
                group[layout.removeprefix("hloc:")] = scores
        return folder / "feats.h5"
    for name, data in (("keypoints", keypoints), ("descriptors", descriptors), ("scores", scores)):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["sub/a"] = data
    return folder


@pytest.mark.parametrize("layout", ["ours", "hloc:keypoint_scores", "hloc:scores"])
def test_features_found_elsewhere_are_the_n_best_with_unit_descriptors(tmp_path, layout):
    rng = np.random.default_rng(0)
    keypoints = rng.uniform(0, 100, (6, 2)).astype(np.float32)
    descriptors, scores = 300 * unit(rng, 6, 8).astype(np.float32), np.float32([3, 1, 6, 2, 5, 4])
    path = write_layout(layout, tmp_path / "elsewhere", keypoints, descriptors, scores)
    (source,) = open_sources(FeatureOptions(features=(path,), n=3))
    view = View(tmp_path / "sub" / "a.jpg", "sub/a")
    assert source.prepare([view]) is None
    found = source.features(view)
    np.testing.assert_array_equal(found.keypoints.numpy(), keypoints[[2, 4, 5]])
    np.testing.assert_allclose(found.descriptors.numpy(), descriptors[[2, 4, 5]] / 300, rtol=1e-5)
    with pytest.raises(ArtifactError, match="no features of 'b' and 1 more"):
        source.prepare([view, View(tmp_path / "b.jpg", "b"), View(tmp_path / "c.jpg", "c")])


def test_without_scores_the_best_cannot_be_told(tmp_path, caplog):
    rng = np.random.default_rng(0)
    arrays = np.zeros((6, 2), np.float32), unit(rng, 6, 8).astype(np.float32), np.zeros(6, np.float32)
    path = write_layout("hloc", tmp_path / "elsewhere", *arrays)
    view = View(tmp_path / "sub" / "a.jpg", "sub/a")
    (source,) = open_sources(FeatureOptions(features=(path,), n=5))
    with pytest.raises(ArtifactError, match=r"no scores of 'sub/a'.*--n 6 or more"):
        source.prepare([view])
    (source,) = open_sources(FeatureOptions(features=(path,), n=6))
    source.prepare([view])
    assert "no scores of 1 images: all" in caplog.text
    assert len(source.features(view)) == 6


def test_a_folder_of_several_scenes_is_entered(tmp_path):
    rng = np.random.default_rng(0)
    arrays = np.zeros((6, 2), np.float32), unit(rng, 6, 8).astype(np.float32), np.zeros(6, np.float32)
    (tmp_path / "submission").mkdir()
    write_layout("ours", tmp_path / "submission" / "rome", *arrays)
    (source,) = open_sources(FeatureOptions(features=(tmp_path / "submission",)), "rome")
    assert source.label == "submission"
    assert len(source.features(View(tmp_path / "a.jpg", "sub/a"))) == 6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureOptions(n=0), "--n 0"),
        (lambda: FeatureOptions(max_size=-1), "--max-size -1"),
        (lambda: FeatureOptions(ratio=()), "--ratio"),
        (lambda: FeatureOptions(ratio=(0.8, 1.2)), "--ratio"),
        (lambda: FeatureOptions(method=("sift",), matcher="lightglue"), "--matcher lightglue is for"),
        (lambda: FeatureOptions(matcher_weights=Path("x.pth")), "--matcher-weights is for"),
        (lambda: FeatureOptions(features=(Path("x"),), degrade=True), "--degrade spoils images"),
        (lambda: FeatureOptions(features=(Path("none"),)), "no features in none"),
        (lambda: FeatureOptions(weights=("none.pth",)), "none.pth"),
    ],
)
def test_options_that_make_no_sense(make: Callable[[], FeatureOptions], message: str):
    with pytest.raises(DiskError, match=message) as caught:
        open_sources(make())
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, (EvaluationError, ArtifactError, DiskError))


class Recorded:
    """In place of LightGlue: keeps what it is given, and matches feature k with feature k."""

    calls: ClassVar[list[tuple]] = []

    def __init__(self, weights, device, half, source):
        self.calls.clear()

    def match(self, f0, f1, size0, size1):
        self.calls.append((f0, f1, size0, size1))
        k = torch.arange(min(len(f0), len(f1)))
        found = Matches(torch.stack([k, k], 1), torch.zeros(len(k)), torch.linspace(0, 1, len(k)))
        return found.between(f0, f1)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[FeatureOptions, list[tuple]]:
    monkeypatch.setattr("disk.matching.matcher.LightGlue", Recorded)
    torch.save({}, tmp_path / "lightglue.pth")
    options = FeatureOptions(matcher="lightglue", matcher_weights=tmp_path / "lightglue.pth", n=50, device="cpu")
    return options, Recorded.calls


@pytest.mark.parametrize("turns", [(0, 0), (1, 0), (0, 2), (3, 1)])
def test_lightglue_is_given_each_image_with_its_own_size_turned_as_it_is(tmp_path, recorded, monkeypatch, turns):
    options, calls = recorded
    monkeypatch.setattr(sources, "detect_baseline", lambda method, image, n: spots(image, n))
    stored = {"a": [(3, 20), (41, 7)], "b": [(0, 0), (59, 30)]}
    views, upright = [], []
    for (name, points), (width, height), turned in zip(stored.items(), [(50, 30), (60, 31)], turns, strict=True):
        image = np.zeros((height, width, 3), np.uint8)
        for x, y in points:
            image[y, x] = [255, 0, 0]
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        views.append(View(tmp_path / f"{name}.png", name, turns=turned))
        upright.append(np.rot90(image, turned))
    (source,) = open_sources(replace(options, method=("sift",), matcher="mnn", matcher_weights=None))
    source.prepare(views)
    matcher = Matcher(options)
    assert matcher.ratios == (None,)
    matches = matcher.match(source, *views, None)
    (f0, f1, *sizes), images = calls[0], upright
    assert sizes == [(image.shape[1], image.shape[0]) for image in images]
    for features, image in zip((f0, f1), images, strict=True):
        assert sorted(features.keypoints.tolist()) == sorted(spots(image, 10).keypoints.tolist())
    # what comes back is in pixels of the stored images
    assert matches.scores.tolist() == [0, 1]
    assert sorted(map(tuple, matches.points0.tolist())) == stored["a"]
    assert sorted(map(tuple, matches.points1.tolist())) == stored["b"]


def test_the_pipeline_and_evaluation_match_alike(tmp_path):
    """The ratio is of distances, not of their squares, and two-way, wherever it is used."""
    angle = torch.deg2rad(torch.tensor([0.0, 40.0, 50.0, 180.0]))
    words = torch.stack([angle.cos(), angle.sin()], 1)
    near, far = (2 * torch.sin(angle[k] / 2) for k in (1, 2))  # distances of word 0 to words 1 and 2
    points = {name: np.zeros((len(d), 2)) for name, d in (("a", words[:1]), ("b", words[1:3]))}
    folder = write_artifacts(tmp_path / "found", points, {"a": words[:1].numpy(), "b": words[1:3].numpy()})
    views = write_photo(tmp_path / "a.png"), write_photo(tmp_path / "b.png")
    for ratio, expected in ((float(near / far) - 0.01, []), (float(near / far) + 0.01, [[0, 0]])):
        options = FeatureOptions(ratio=(ratio,), features=(folder,))
        (source,) = open_sources(options)
        assert Matcher(options).match(source, *views, ratio).indices.tolist() == expected
        assert disk.match(words[:1], words[1:3], ratio=ratio).indices.tolist() == expected
        match(folder, MatchOptions(rt=ratio, device="cpu", overwrite=True))
        with read_matches(folder) as stored:
            assert stored["a", "b"].T.tolist() == expected


def test_lightglue_has_no_ratio(tmp_path):
    import kornia.feature

    torch.manual_seed(0)
    torch.save(kornia.feature.LightGlue(None, input_dim=128).state_dict(), tmp_path / "lightglue.pth")
    options = FeatureOptions(matcher="lightglue", matcher_weights=tmp_path / "lightglue.pth", n=20, device="cpu")
    matcher = Matcher(options)
    assert matcher.ratios == (None,)
    (source,) = open_sources(options)
    view0, view1 = write_photo(tmp_path / "a.png"), write_photo(tmp_path / "b.png", seed=1)
    source.prepare([view0, view1])
    indices = matcher.match(source, view0, view1, None).indices
    assert indices.shape[1] == 2
    assert indices.max() < 20 if len(indices) else True
