"""Tuples of posed images: one grid for image, camera and depth."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from disk.datasets.scenes import SceneSet
from disk.datasets.tuples import TupleDataset, shown_size
from disk.errors import DatasetError, DiskError, ImageError
from disk.geometry.camera import project, relative_pose
from disk.rewards.matches import pair_rewards


def dataset(maker, height: int = 32, width: int = 48, **options) -> TupleDataset:
    return TupleDataset(SceneSet.load(maker.write()), height, width, **options)


def test_reads_any_image_type_dotted_names_and_sub_folders(maker) -> None:
    tuples = dataset(maker.scene(), 40, 60)
    assert len(tuples) == 2
    assert [view.name for view in tuples[0]] == ["here/a.jpg", "here/b.png", "here/c.d.tif"]
    assert [view.name for view in tuples[1]] == ["here/b.png", "here/c.d.tif", "here/sub/e.jpg"]
    assert {view.image.shape for view in tuples[1]} == {(3, 40, 60)}
    stored = np.asarray(Image.open(maker.root / "here/images/b.png"))
    np.testing.assert_array_equal(tuples[0][1].image.permute(1, 2, 0) * 255, stored)
    for number, view in enumerate(tuples[0]):
        torch.testing.assert_close(view.camera.t, torch.tensor([-0.2 * number, 0, 0]))
        assert view.depth is not None
        assert (view.depth == 5).all()


@pytest.mark.parametrize(("height", "width"), [(64, 64), (32, 96), (160, 160), (16, 48)])
def test_a_blob_stays_where_the_camera_sees_it(maker, height: int, width: int) -> None:
    """After the resize, a bright spot in the image is where the resized camera projects its point."""
    x, y = np.meshgrid(np.arange(60), np.arange(40))
    spot = np.array([37.0, 14.0])
    values = 255 * np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / (2 * 3.0**2))
    maker.scene()
    Image.fromarray(np.repeat(values[..., None].round().astype(np.uint8), 3, axis=2)).save(
        maker.root / "here/images/b.png"
    )
    view = dataset(maker, height, width)[0][1]
    scale = min(height / 40, width / 60)
    weights = view.image[0].double()
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64), indexing="ij"
    )
    found = torch.stack([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()
    K = np.array([[50.0, 0, 29.5], [0, 52.0, 19.5], [0, 0, 1]])
    point = torch.from_numpy(np.linalg.solve(K, [*spot, 1]) * 5) - torch.tensor([-0.2, 0, 0])
    expected, depth = project(view.camera, point[None].float())
    torch.testing.assert_close(found, expected[0].double(), atol=0.03 * max(scale, 1), rtol=0)
    torch.testing.assert_close(depth, torch.tensor([5.0]))


def about_y(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def store_turned(maker, image: str, orientation: int) -> None:
    """Store an image, its calibration and its depth as a rotated camera does, with its EXIF orientation."""
    root = maker.root / "here"
    pixels = np.asarray(Image.open(root / "images" / image))
    turns = {3: 2, 6: 1, 8: 3}[orientation]  # counter-clockwise, from upright to stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.rot90(pixels, turns)).save(root / "images" / image, exif=exif)
    stem = image.split(".")[0]
    with h5py.File(root / f"calibration/calibration_{image}.h5") as file:
        R, T = file["R"][()], file["T"][()]
    with h5py.File(root / f"depth/{stem}.h5") as file:
        depth = file["depth"][()]
    # axes of the rotated camera: after a quarter turn, x points along the previous y, up to its sign
    c, s = {2: (-1, 0), 1: (0, 1), 3: (0, -1)}[turns]
    turn = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.0]])
    f, (w, h) = (50.0, 52.0), (60, 40)
    if turns == 2:
        K = np.array([[f[0], 0, w - 1 - 29.5], [0, f[1], h - 1 - 19.0], [0, 0, 1]])
    elif turns == 1:  # x = previous y, y = w - 1 - previous x
        K = np.array([[f[1], 0, 19.0], [0, f[0], w - 1 - 29.5], [0, 0, 1]])
    else:  # x = h - 1 - previous y, y = previous x
        K = np.array([[f[1], 0, h - 1 - 19.0], [0, f[0], 29.5], [0, 0, 1]])
    (root / f"calibration/calibration_{image}.h5").unlink()
    maker.h5(root / f"calibration/calibration_{image}.h5", K=K, R=turn @ R, T=turn @ T)
    (root / f"depth/{stem}.h5").unlink()
    maker.h5(root / f"depth/{stem}.h5", depth=np.rot90(depth, turns))


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_rotated_photos_give_the_tuple_and_the_rewards_of_upright_ones(maker, orientation: int) -> None:
    maker.scene(images=("a.png", "b.png", "c.png"), tuples=[(0, 1, 2)])
    off_centre = np.array([[50.0, 0, 29.5], [0, 52.0, 19.0], [0, 0, 1]])
    for number, name in enumerate("abc"):  # a camera that every rotation changes, and varying depths
        path = maker.root / f"here/calibration/calibration_{name}.png.h5"
        path.unlink()
        maker.h5(path, K=off_centre, R=about_y(0.05 * number), T=np.array([-0.2 * number, 0.1, 0]))
        path = maker.root / f"here/depth/{name}.h5"
        path.unlink()
        maker.h5(path, depth=np.add.outer(0.02 * np.arange(40), 0.01 * np.arange(60)) + 4)
    upright = dataset(maker)[0]
    for image in ("b.png", "c.png"):
        store_turned(maker, image, orientation)
    turned = dataset(maker)[0]
    keypoints = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([44.0, 28.0])
    for before, now in zip(upright, turned, strict=True):
        torch.testing.assert_close(now.image, before.image)
        torch.testing.assert_close(now.depth, before.depth)
        for part in ("K", "R", "t"):
            torch.testing.assert_close(getattr(now.camera, part), getattr(before.camera, part), atol=1e-4, rtol=1e-5)
    for with_depth in (True, False):
        values = [
            pair_rewards(keypoints, keypoints, a.camera, b.camera, *([a.depth, b.depth] if with_depth else []))
            for a, b in ((upright[0], upright[1]), (turned[0], turned[1]), (turned[1], turned[2]))
        ]
        torch.testing.assert_close(values[0], values[1])


def test_a_mirrored_photo_is_used_as_stored(maker) -> None:
    maker.scene(images=("a.png", "b.png"), tuples=[(0, 1)])
    before = dataset(maker)[0][1]
    exif = Image.Exif()
    exif[0x0112] = 5
    path = maker.root / "here/images/b.png"
    Image.open(path).save(path, exif=exif)
    now = dataset(maker)[0][1]
    torch.testing.assert_close(now.image, before.image)
    torch.testing.assert_close(now.camera.K, before.camera.K)
    assert shown_size(path) == (60, 40)


@pytest.mark.parametrize("factor", [1, 2])
def test_depth_is_that_of_the_nearest_pixel_and_padding_is_unknown(maker, factor: int) -> None:
    generator = np.random.default_rng(0)
    depth = generator.uniform(1, 9, (40 // factor, 60 // factor)).astype(np.float32)
    maker.scene().h5(maker.root / "here/depth/a.h5", depth=depth)
    view = dataset(maker, 48, 48)[0][0]  # 60 x 40 becomes 48 x 32
    assert view.depth is not None
    assert (view.depth[32:] == 0).all()
    assert (view.image[:, 32:] == 0).all()
    for row, column in ((0, 0), (31, 47), (10, 20), (17, 3)):
        # the pixel of the map whose centre is nearest to the centre of the resized pixel
        across = (np.arange(60 // factor) + 0.5) * factor / 60 * 48 - 0.5
        down = (np.arange(40 // factor) + 0.5) * factor / 40 * 32 - 0.5
        assert view.depth[row, column] == depth[np.abs(down - row).argmin(), np.abs(across - column).argmin()]


def test_scenes_and_images_without_depth(maker) -> None:
    maker.scene().scene("there", depth=False)
    (maker.root / "here/depth/b.h5").unlink()
    tuples = dataset(maker)
    assert [view.depth is None for view in tuples[0]] == [False, True, False]
    assert [view.depth is None for view in tuples[2]] == [True, True, True]


def test_names_are_cut_as_in_the_original(maker) -> None:
    """It opens the name up to its first dot, plus .jpg and .h5, ignoring the rest of the name in the json."""
    maker.scene(images=("a.png", "b.c.png", "b.d.png"), tuples=((0, 1), (0, 2)))
    root = maker.root / "here"
    (root / "images/a.png").rename(root / "images/a.jpg")
    (root / "images/b.c.png").rename(root / "images/b.c.jpg")
    (root / "depth/b.c.h5").rename(root / "depth/b.h5")
    tuples = dataset(maker)
    assert [view.depth is None for view in tuples[0]] == [False, True], "b.h5 may belong to b.c or b.d"
    assert [view.depth is None for view in tuples[1]] == [False, False]
    maker.scene(images=("a.x.jpg", "b.jpg"), tuples=((0, 1),))
    (root / "images/a.x.jpg").rename(root / "images/a.jpg")
    (root / "depth/a.x.h5").rename(root / "depth/a.h5")
    assert [view.depth is None for view in dataset(maker)[0]] == [False, False]


def test_georeferenced_positions_keep_their_relative_poses(maker) -> None:
    maker.scene()
    far = np.array([4_500_000.0, 6_200_000.0, 300.0])
    K = np.array([[50.0, 0, 29.5], [0, 52.0, 19.5], [0, 0, 1]])
    angle = 0.3
    R = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    for number, name in enumerate(("a.jpg", "b.png", "c.d.tif")):
        pose = np.eye(3) if number == 0 else R
        position = far + np.array([0.01 * number, 0, 0])
        maker.h5(maker.root / f"here/calibration/calibration_{name}.h5", K=K, R=pose, T=-pose @ position)
    views = dataset(maker)[0]
    rotation, translation = relative_pose(views[0].camera, views[2].camera)
    torch.testing.assert_close(rotation, torch.from_numpy(R).float())
    torch.testing.assert_close(translation, torch.from_numpy(R @ [-0.02, 0, 0]).float(), atol=1e-6, rtol=0)


def test_the_limit_is_per_scene_with_another_draw_in_each_pass(maker) -> None:
    many = tuple((i, j) for i in range(4) for j in range(4) if i < j)
    maker.scene(tuples=many).scene("small", tuples=((0, 1),))
    tuples = dataset(maker, scene_limit=3, seed=1)

    def drawn(epoch: int) -> set[tuple[str, ...]]:
        tuples.resample(epoch)
        assert len(tuples) == 4
        views = [tuples[index] for index in range(4)]
        assert views[3][0].name.startswith("small/")
        assert len({tuple(view.name for view in item) for item in views}) == 4
        return {tuple(view.name for view in item) for item in views[:3]}

    passes = [drawn(epoch) for epoch in range(12)]
    assert len(set().union(*passes)) == 6, "every tuple is drawn"
    assert passes[0] != passes[1] or passes[1] != passes[2]
    assert [drawn(epoch) for epoch in range(12)] == passes
    assert len(dataset(maker)) == 7


def test_faults_in_the_data_show_at_the_start(maker) -> None:
    calibration = maker.scene().root / "here/calibration/calibration_b.png.h5"
    maker.h5(calibration, K=np.eye(3), R=np.eye(3), T=np.full(3, np.nan))
    with pytest.raises(DatasetError, match=r"calibration_b\.png\.h5.*not finite"):
        dataset(maker)
    calibration.unlink()
    with pytest.raises(DatasetError, match=r"no calibration of b\.png"):
        dataset(maker)
    maker.scene()
    (maker.root / "here/images/b.png").unlink()
    with pytest.raises(DatasetError, match=r"no image .*b\.png"):
        dataset(maker)
    maker.scene()
    with pytest.raises(DiskError, match="scene_limit=0"):
        dataset(maker, scene_limit=0)


def test_damaged_images_and_depth_maps(maker, tmp_path: Path) -> None:
    (maker.scene().root / "here/images/b.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"b\.png"):
        dataset(maker)[0]
    maker.scene().h5(maker.root / "here/depth/b.h5", depth=np.ones((40, 40)))
    with pytest.raises(DatasetError, match=r"b\.h5.*different aspect"):
        dataset(maker)[0]
