"""Stereo depth of rendered views against their exact depth."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pycolmap
import pytest
from PIL import Image

from disk.colmap.workspace import read_depth_map
from disk.datasets.import_colmap import ImportOptions, import_colmap
from disk.datasets.scenes import SceneSet
from disk.datasets.synthesis.dice import Dice
from disk.datasets.synthesis.materials import draw_materials
from disk.datasets.synthesis.render import render
from disk.datasets.synthesis.scene import draw_scenes
from disk.datasets.synthesis.textures import build_store
from disk.datasets.synthesis.trace import Views
from disk.datasets.synthesis.views import draw_views
from disk.datasets.tuples import TupleDataset
from disk.errors import ColmapError
from script import load_script
from textured import textured_photo

pytest.importorskip("cv2")
HEIGHT, WIDTH, VIEWS = 192, 256, 5
SPARSE = 300  # points per image


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_script("recipes/dense_depth.py")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace to read only."""
    root = tmp_path_factory.mktemp("rendered")
    write_workspace(root, 0)
    return root


def write_workspace(root: Path, seed: int, model: str = "PINHOLE") -> np.ndarray:
    """Views of a rendered scene side by side and one above the other, with sparse points; returns the exact depths."""
    dice = Dice([seed])
    scenes = draw_scenes(dice)
    first = draw_views(dice, scenes, 1, HEIGHT, WIDTH)
    materials = draw_materials(dice, scenes, store := build_store([textured_photo(300, 400, seed=i) for i in range(4)]))
    # moved sideways, down, up to the left and towards the scene, in the frame of the first
    moves = np.array([[0, 0, 0], [0.2, 0, 0], [0, 0.2, 0], [-0.15, -0.15, 0], [0.1, 0.1, 0.1]])
    t = first.t + first.t.new_tensor(-moves)[None]
    views = Views(first.K.expand(1, VIEWS, 3, 3), first.R.expand(1, VIEWS, 3, 3), t)
    images, depths = (part[0].numpy() for part in render(scenes, views, materials, store, HEIGHT, WIDTH))
    K, R, t = (part[0].numpy() for part in (views.K, views.R, views.t))

    fx, fy, cx, cy = K[0][[0, 1, 0, 1], [0, 1, 2, 2]].tolist()
    params = [fx, fy, cx + 0.5, cy + 0.5] + ([0.1, 0, 0, 0] if model == "OPENCV" else [])
    camera = pycolmap.Camera(model=model, width=WIDTH, height=HEIGHT, params=params, camera_id=1)
    reconstruction = pycolmap.Reconstruction()
    reconstruction.add_camera_with_trivial_rig(camera)
    rng = np.random.default_rng(seed)
    rows, columns = np.unravel_index(rng.permutation(np.flatnonzero(depths[0] > 0))[:SPARSE], (HEIGHT, WIDTH))
    rays = np.linalg.inv(K[0]) @ np.stack([columns, rows, np.ones(len(rows))])
    world = (rays * depths[0, rows, columns] - t[0][:, None]).T @ R[0]
    (root / "images").mkdir(parents=True)
    seen = []
    for view in range(VIEWS):
        in_camera = world @ R[view].T + t[view]
        pixels = in_camera @ K[view].T
        pixels = pixels[:, :2] / pixels[:, 2:]
        at = pixels.round().astype(int).clip(0, [WIDTH - 1, HEIGHT - 1])
        inside = np.abs(pixels - at).max(1) <= 0.5
        seen.append(inside & (np.abs(depths[view][at[:, 1], at[:, 0]] / in_camera[:, 2] - 1) < 0.01))
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(R[view]), t[view])
        image = pycolmap.Image(name=f"{view}.png", camera_id=1, image_id=view + 1, keypoints=pixels + 0.5)
        reconstruction.add_image_with_trivial_frame(image, pose)
        colours = (images[view].transpose(1, 2, 0) * 255).round().astype(np.uint8)
        Image.fromarray(colours).save(root / "images" / f"{view}.png")
    for number, point in enumerate(world):
        track = [pycolmap.TrackElement(view + 1, number) for view in range(VIEWS) if seen[view][number]]
        reconstruction.add_point3D(point, pycolmap.Track(track), np.zeros(3, np.uint8))
    (root / "sparse").mkdir()
    reconstruction.write_binary(root / "sparse")
    return depths


@pytest.mark.parametrize("seed", range(2))
def test_depth_of_rendered_views(recipe: ModuleType, tmp_path: Path, seed: int) -> None:
    """Most pixels have a depth, with a small error in the median and few wrong ones."""
    exact = write_workspace(tmp_path, seed)
    agreements = list(recipe.dense_depth(tmp_path, 640))
    found = np.stack([read_depth_map(tmp_path / f"stereo/depth_maps/{v}.png.geometric.bin") for v in range(VIEWS)])
    both = (found > 0) & (exact > 0)
    errors = np.abs(found[both] / exact[both] - 1)
    assert (found > 0).mean() > 0.65
    assert np.median(errors) < 0.006
    assert (errors < 0.02).mean() > 0.9
    # the report says the same
    assert np.mean([one.coverage for one in agreements]) == pytest.approx((found > 0).mean())
    assert np.median(np.concatenate([one.errors for one in agreements])) < 0.006

    import_colmap(tmp_path, ImportOptions(min_overlap=0.01, max_overlap=1.0))
    views = TupleDataset(SceneSet.load(tmp_path / "dataset"), HEIGHT, WIDTH)[0]
    for view in views:
        assert view.depth is not None
        np.testing.assert_array_equal(view.depth.numpy(), found[int(Path(view.name).stem)])


@pytest.mark.parametrize("other", range(1, VIEWS))
def test_cameras_in_any_direction_from_each_other(recipe: ModuleType, rendered: Path, other: int) -> None:
    views = recipe.read_views(rendered, 640)
    for one, two in ((views[0], views[other]), (views[other], views[0])):
        errors = recipe.errors_at_points(one, np.nan_to_num(recipe.stereo(one, two)))
        assert len(errors) > 0.6 * len(one.points)
        assert np.median(errors) < 0.01


def test_depth_on_which_two_neighbours_agree(recipe: ModuleType) -> None:
    depths = [np.array([[value]]) for value in (2.0, 2.01, 3.0, np.nan)]
    assert recipe.fuse(depths, (1, 1)) == pytest.approx(2.005)
    assert recipe.fuse(depths[1:], (1, 1)) == 0
    assert recipe.fuse([], (1, 1)) == 0


def test_an_image_without_neighbours_has_no_map(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_workspace(tmp_path, 0)
    stale = tmp_path / "stereo/depth_maps/0.png.geometric.bin"
    stale.parent.mkdir(parents=True)
    stale.touch()
    monkeypatch.setattr(recipe, "ANGLES", (100, 120))
    recipe.main((tmp_path,))
    assert not list(stale.parent.iterdir())


def test_distorted_images_are_refused(recipe: ModuleType, tmp_path: Path) -> None:
    write_workspace(tmp_path, 0, "OPENCV")
    with pytest.raises(ColmapError, match="OPENCV cameras; run `disk undistort` first"):
        list(recipe.dense_depth(tmp_path, 640))
