"""Rotated images are detected and connected in any quarter turn; other images are not touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from disk.features import Features
from disk.images.listing import list_images
from disk.pipeline.detect import DetectOptions, detect
from disk.pipeline.export import ExportOptions, export
from disk.pipeline.match import match
from disk.pipeline.match_options import MatchOptions
from disk.pipeline.rotations import (
    Graph,
    View,
    _agreement,
    choose_turns,
    rotated_images,
    stand_alike,
    turn_unconnected,
)
from disk.pipeline.verify import VerifyOptions, verify
from disk.storage.artifacts import read_features, read_matches
from synthetic_scene import HEIGHT, WIDTH, Scene, make_scene
from textured import textured_photo

NAMES = ["a", "b", "c", "d", "e"]


def turn(points: np.ndarray, turns: int) -> np.ndarray:
    """Pixels of a WIDTH x HEIGHT image after quarter turns counter-clockwise."""
    x, y = points.T
    w, h = WIDTH - 1, HEIGHT - 1
    return np.stack([(x, y), (y, w - x), (w - x, h - y), (h - y, x)][turns % 4], 1)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_views_with_the_same_rotation(turns: int) -> None:
    scene = make_scene(NAMES, points=200, wrong=0)  # 15 degrees from one to the next, tilted by up to 8
    for other in "bcd":
        rows = scene.matches["a", other]
        p0, p1 = scene.keypoints["a"][rows[0]], scene.keypoints[other][rows[1]]
        assert stand_alike(p0, turn(p1, turns)) == (turns == 0)
        assert not stand_alike(p0, np.random.default_rng(0).permutation(p1))


class World:
    """The scene seen by a network that recognizes a point only in views with the same rotation."""

    def __init__(self, scene: Scene, held: dict[str, int]) -> None:
        self.scene, self.held = scene, held
        self.detected: list[tuple[str, int]] = []
        codes = np.random.default_rng(0).normal(size=(4, 1000, 32))
        self.codes = codes / np.linalg.norm(codes, axis=2, keepdims=True)

    def detect(self, name: str, turns: int) -> View:
        """Descriptors depend on how far the picture is from upright."""
        self.detected.append((name, turns))
        off = (self.held.get(name, 0) + turns) % 4
        descriptors = torch.from_numpy(self.codes[off][self.scene.owners[name]]).float()
        keypoints = turn(self.scene.keypoints[name], off).astype(np.float32)
        features = Features(torch.from_numpy(keypoints), descriptors, torch.ones(len(keypoints)))
        return View(keypoints, features, (WIDTH, HEIGHT) if off % 2 == 0 else (HEIGHT, WIDTH))

    def graph(self) -> Graph:
        names = self.scene.names
        pairs = [(a, b) for a in names for b in names if a < b]
        counts = {pair: agree(*(self.detect(name, 0) for name in pair)) for pair in pairs}
        self.detected.clear()
        return Graph(names, pairs, {pair: (count, True) for pair, count in counts.items() if count})

    def choose(self, graph: Graph) -> dict[str, int]:
        return choose_turns(graph, lambda name: self.detect(name, 0), self.detect, agree)


def agree(view: View, other: View) -> int:
    return _agreement(view, other, 4.0, 15, 0)


@pytest.mark.parametrize("held", [{"b": 1}, {"a": 2}, {"b": 1, "d": 3}, {"d": 1, "e": 1}, {"a": 3, "c": 2}])
def test_rotated_images_are_turned_back(held: dict[str, int]) -> None:
    world = World(make_scene(NAMES, points=120, wrong=0), held)
    assert world.choose(world.graph()) == {name: (-turns) % 4 for name, turns in held.items()}


def test_images_with_the_same_rotation_cost_nothing() -> None:
    world = World(make_scene(NAMES, points=120, wrong=0), {})
    assert world.choose(world.graph()) == {}
    assert not world.detected


def test_a_few_matches_by_chance_are_no_connection_and_do_not_beat_one() -> None:
    world = World(make_scene(NAMES, points=120, wrong=0), {"b": 1})
    graph = world.graph()
    lucky = Graph(graph.names, graph.pairs, {**graph.links, ("a", "b"): (30, True), ("b", "c"): (90, False)})
    assert world.choose(lucky) == {"b": 3}
    alone = World(make_scene(NAMES, points=120, wrong=0), {})
    graph = alone.graph()
    weak = {pair: (40, True) if "b" in pair else link for pair, link in graph.links.items()}
    assert alone.choose(Graph(graph.names, graph.pairs, weak)) == {}  # weak, but no rotation is better


def test_a_corrected_image_connects_the_next() -> None:
    world = World(make_scene(NAMES, points=120, wrong=0), {"d": 1, "e": 2})
    graph = world.graph()
    chain = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")]  # e was matched with d only
    links = {pair: link for pair, link in graph.links.items() if pair in chain}
    assert world.choose(Graph(NAMES, chain, links)) == {"d": 3, "e": 2}


def test_rotated_photos_on_disk(tmp_path: Path) -> None:
    """Crops of one picture, one rotated by 90 and one by 180 degrees: matches are correct in stored pixels."""
    picture, height, width = textured_photo(300, 320), 180, 220
    corners = {"a": (0, 0), "b": (50, 30), "c": (80, 70), "d": (20, 60)}
    held = {"b": 1, "d": 2}
    (tmp_path / "in").mkdir()
    for name, (y, x) in corners.items():
        crop = np.rot90(picture[y : y + height, x : x + width], held.get(name, 0))
        Image.fromarray(np.ascontiguousarray(crop)).save(tmp_path / "in" / f"{name}.png")
    out, database = tmp_path / "out", tmp_path / "database.db"
    options = DetectOptions(n=300, backend="torch")

    def run() -> None:
        detect(out, tmp_path / "in", options)
        match(out, MatchOptions(rt=0.95))
        export(out, tmp_path / "in", ExportOptions(database_path=database, overwrite=True))
        verify(out, VerifyOptions(database_path=database))

    run()
    with read_features(out) as store:
        before = {name: store[name] for name in store}
    assert turn_unconnected(out, tmp_path / "in", options) == sorted(held)
    with read_features(out) as store:
        for name in set(corners) - set(held):
            assert torch.equal(store[name].keypoints, before[name].keypoints)
    run()
    assert turn_unconnected(out, tmp_path / "in", options) == []
    assert rotated_images(out, list_images(tmp_path / "in")) == {"b.png": 270, "d.png": 180}
    with read_features(out) as store, read_matches(out, "inliers.h5") as inliers:
        assert len(inliers.pairs()) == 6
        for pair in inliers.pairs():
            rows = inliers[pair]
            assert rows.shape[1] > 30, pair
            ends = [
                in_picture(store.keypoints(name)[row], corners[name], held.get(name, 0), width, height)
                for name, row in zip(pair, rows, strict=True)
            ]
            assert np.median(np.linalg.norm(ends[0] - ends[1], axis=1)) < 0.3, pair


def in_picture(points: np.ndarray, corner: tuple[int, int], turns: int, width: int, height: int) -> np.ndarray:
    """Pixels of a crop as stored, after quarter turns counter-clockwise -> pixels of the picture."""
    x, y = points.T
    x, y = [(x, y), (width - 1 - y, x), (width - 1 - x, height - 1 - y)][turns]
    return np.stack([x + corner[1], y + corner[0]], 1)
