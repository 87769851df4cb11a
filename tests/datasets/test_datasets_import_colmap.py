"""From a COLMAP workspace, or a reconstruction of distorted photos, to training tuples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image

from disk.datasets.import_colmap import ImportOptions, import_colmap
from disk.datasets.scenes import SceneSet
from disk.datasets.tuples import TupleDataset
from disk.errors import ColmapError, DatasetError, DiskError, PartialFailureError
from disk.geometry.camera import project, unproject

WIDTH, HEIGHT = 80, 64
NAMES = ("a.jpg", "b.c.jpg", "sub/c.png", "sub/d.jpg", "e.jpg", "e.png", "nothing.jpg")
STEP = 0.5  # from one camera to the next


def make_workspace(root: Path, model: str = "PINHOLE", folder: str = "sparse") -> Path:
    """Cameras in a row that look at the plane z = 5; number i sees the points 10 i to 10 i + 39.

    So the overlap of i and j is 1 - |i - j| / 4. The last camera sees no point.
    """
    reconstruction = pycolmap.Reconstruction()
    params = [70.0, 70.0, 40.5, 32.5] + ([-0.1, 0.0, 0.0, 0.0] if model == "OPENCV" else [])
    camera = pycolmap.Camera(model=model, width=WIDTH, height=HEIGHT, params=params, camera_id=1)
    reconstruction.add_camera_with_trivial_rig(camera)
    generator = np.random.default_rng(0)
    for index, name in enumerate(NAMES):
        count = 40 if index < len(NAMES) - 1 else 0
        image = pycolmap.Image(name=name, camera_id=1, image_id=index + 1, keypoints=np.zeros((count, 2)) + 20)
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(), np.array([-STEP * index, 0, 0]))
        reconstruction.add_image_with_trivial_frame(image, pose)
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)
    for point in range(10 * len(NAMES) + 30):
        seen_by = [i for i in range(len(NAMES) - 1) if 10 * i <= point < 10 * i + 40]
        elements = [pycolmap.TrackElement(i + 1, point - 10 * i) for i in seen_by]
        if elements:
            reconstruction.add_point3D(np.array([0.0, 0, 5]), pycolmap.Track(elements), np.zeros(3, dtype=np.uint8))
    (root / folder).mkdir(parents=True)
    reconstruction.write_binary(root / folder)
    return root


def write_depth_map(workspace: Path, name: str, kind: str, depth: float) -> None:
    path = workspace / "stereo/depth_maps" / f"{name}.{kind}.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((HEIGHT, WIDTH), depth, dtype=np.float32)
    values[0, 0] = -1
    path.write_bytes(f"{WIDTH}&{HEIGHT}&1&".encode() + values.tobytes())


def load(folder: Path) -> TupleDataset:
    return TupleDataset(SceneSet.load(folder), HEIGHT, WIDTH)


def test_triplets_in_which_every_pair_is_covisible(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "place")
    import_colmap(workspace)
    (scene,) = SceneSet.load(workspace / "dataset").scenes
    assert scene.name == "place"
    assert list(scene.images) == sorted(NAMES[:-1]), "the image that sees no point is skipped"
    position = [NAMES.index(name) for name in scene.images]
    found = {tuple(sorted(position[i] for i in row)) for row in scene.tuples.tolist()}
    assert found == {(i, i + 1, i + 2) for i in range(4)}, "overlap 0.75 and 0.5, from 0.5 to 0.8"


@pytest.mark.parametrize(
    ("size", "least", "most", "spread"), [(2, 0.5, 0.8, 2), (2, 0.2, 0.8, 3), (2, 0.2, 0.6, 3), (4, 0.2, 1.0, 3)]
)
def test_size_and_overlap(tmp_path: Path, size: int, least: float, most: float, spread: int) -> None:
    workspace = make_workspace(tmp_path / "place")
    scene = import_colmap(
        workspace, ImportOptions(tuple_size=size, min_overlap=least, max_overlap=most, out=tmp_path / "out")
    )
    position = [NAMES.index(name) for name in scene.images]
    gaps = {abs(position[i] - position[j]) for row in scene.tuples.tolist() for i in row for j in row if i != j}
    assert scene.tuples.shape[1] == size
    assert gaps == {gap for gap in range(1, spread + 1) if least <= 1 - gap / 4 <= most}


def test_images_in_no_tuple_of_the_size_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """0, 1 and 2 see the same, 3 overlaps with 2, 4 too little with 3, 5 with none, which no option can change."""
    overlap = np.eye(7)
    for i, j, share in ((0, 1, 0.6), (0, 2, 0.6), (1, 2, 0.6), (2, 3, 0.6), (3, 4, 0.1)):
        overlap[i, j] = overlap[j, i] = share
    monkeypatch.setattr("disk.datasets.import_colmap.covisibility", lambda points: overlap)
    workspace = make_workspace(tmp_path / "place")
    import_colmap(workspace, ImportOptions(out=tmp_path / "triplets"))
    expected = "2 of 5 images are in no tuple of 3: tuple_size=2 would use 4 images in 4 pairs, a lower min_overlap"
    assert f"{expected} uses more" in caplog.text
    import_colmap(workspace, ImportOptions(tuple_size=2, out=tmp_path / "pairs"))
    assert "1 of 5 images are in no tuple of 2: a lower min_overlap uses" in caplog.text
    scene = SceneSet.load(tmp_path / "pairs").scenes[0]
    assert (len(scene.images), len(scene.tuples)) == (4, 4)


def test_depth_and_cameras_agree(tmp_path: Path) -> None:
    """A pixel lifted by its depth projects to the position given by the cameras' distance."""
    workspace = make_workspace(tmp_path)
    for name in NAMES[:4]:
        write_depth_map(workspace, name, "photometric", 3 if name == "a.jpg" else 5)
    write_depth_map(workspace, "a.jpg", "geometric", 5)
    write_depth_map(workspace, "e.png", "photometric", 5)
    import_colmap(workspace, ImportOptions(tuple_size=2, relative=True))
    assert json.loads((workspace / "dataset/dataset.json").read_text())[tmp_path.name]["depth_path"] == "depth"
    tuples = load(workspace / "dataset")
    seen = set()
    for views in (tuples[index] for index in range(len(tuples))):
        for view, other in (views, views[::-1]):
            name, other_name = (posed.name.removeprefix(f"{tmp_path.name}/") for posed in (view, other))
            seen.add(name)
            if name == "e.jpg":
                assert view.depth is None
                continue
            assert view.depth is not None
            assert view.depth[0, 0] == 0
            assert (view.depth.flatten()[1:] == 5).all()
            pixel = torch.tensor([[40.0, 32.0]])  # the principal point, half a pixel from COLMAP's
            lifted = unproject(view.camera, pixel, torch.tensor([5.0]))
            landed, _ = project(other.camera, lifted)
            shift = 70 * STEP * (NAMES.index(name) - NAMES.index(other_name)) / 5
            torch.testing.assert_close(landed, pixel + torch.tensor([shift, 0]), atol=1e-3, rtol=0)
    assert seen == set(NAMES[:-1])


def test_no_depth(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    write_depth_map(workspace, "a.jpg", "geometric", 5)
    assert import_colmap(workspace, ImportOptions(no_depth=True)).depth_path is None
    assert not (workspace / "dataset/depth").exists()


def test_a_deleted_depth_map_is_deleted_from_the_data_set(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    for name in NAMES[:2]:
        write_depth_map(workspace, name, "geometric", 5)
    import_colmap(workspace)
    (workspace / "stereo/depth_maps/a.jpg.geometric.bin").unlink()
    import_colmap(workspace)
    assert sorted(path.name for path in (workspace / "dataset/depth").iterdir()) == ["b.c.h5"]


def test_a_reconstruction_of_distorted_photos(tmp_path: Path) -> None:
    make_workspace(tmp_path, "OPENCV", "model/sparse/0")
    import_colmap(
        tmp_path / "model", ImportOptions(images=tmp_path / "images", out=tmp_path / "data", name="mine", relative=True)
    )
    (tmp_path / "data").rename(tmp_path / "moved")
    (scene,) = SceneSet.load(tmp_path / "moved").scenes
    assert scene.name == "mine"
    assert scene.image_path == tmp_path / "moved/undistorted/images"
    tuples = load(tmp_path / "moved")
    assert len(tuples) == 4
    assert all(view.depth is None and view.image.mean() > 0.3 for view in tuples[0])


def test_depth_maps_beside_a_distorted_model(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, "OPENCV")
    write_depth_map(workspace, "a.jpg", "geometric", 5)
    with pytest.raises(ColmapError, match=r"OPENCV cameras; give the folder .* or no_depth=True"):
        import_colmap(workspace)
    import_colmap(workspace, ImportOptions(no_depth=True))


def test_unusable_files_are_named_and_the_rest_is_imported(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    (workspace / "images/a.jpg").unlink()
    Image.new("RGB", (WIDTH // 2, HEIGHT)).save(workspace / "images/e.png")
    write_depth_map(workspace, "sub/c.png", "geometric", 5)
    write_depth_map(workspace, "sub/d.jpg", "geometric", 5)
    (workspace / "stereo/depth_maps/sub/d.jpg.geometric.bin").write_bytes(b"junk")
    with pytest.raises(PartialFailureError, match="skipped 3 files") as error:
        import_colmap(workspace)
    assert "a.jpg" in str(error.value)
    assert "e.png is 40 x 64 but its camera 80 x 64" in str(error.value)
    assert "d.jpg.geometric.bin" in str(error.value)
    (scene,) = SceneSet.load(workspace / "dataset").scenes
    assert set(scene.images) == set(NAMES[1:5])


def test_nothing_to_train_on(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    with pytest.raises(DatasetError, match=r"no 3 images share 0\.9 to 1 .*the best pair shares 0\.75"):
        import_colmap(workspace, ImportOptions(min_overlap=0.9, max_overlap=1.0))
    assert not (workspace / "dataset").exists()
    with pytest.raises(DiskError, match="at least 2"):
        import_colmap(workspace, ImportOptions(tuple_size=1))
    with pytest.raises(DatasetError, match="0 < min <= max <= 1"):
        import_colmap(workspace, ImportOptions(min_overlap=0.9))
    for name in NAMES:
        (workspace / "images" / name).unlink()
    with pytest.raises(DatasetError, match="none of the model's images"):
        import_colmap(workspace)
    with pytest.raises(ColmapError, match="no COLMAP model"):
        import_colmap(workspace / "images")


def test_poses_without_points(tmp_path: Path) -> None:
    """As COLMAP expects them for known poses: the cause is missing points, which no option can replace."""
    make_workspace(tmp_path)
    model = pycolmap.Reconstruction(tmp_path / "sparse")
    for point in list(model.points3D):
        model.delete_point3D(point)
    model.write_text(tmp_path / "sparse")
    for file in (tmp_path / "sparse").glob("*.bin"):
        file.unlink()
    with pytest.raises(DatasetError, match=r"has poses but no 3D points.*`disk triangulate .* IMAGES OUT`"):
        import_colmap(tmp_path)


def test_a_data_set_of_other_images_stays(tmp_path: Path) -> None:
    first, second = make_workspace(tmp_path / "first"), make_workspace(tmp_path / "second")
    out = tmp_path / "data"
    options = ImportOptions(out=out, no_depth=True, min_overlap=0.1, max_overlap=1.0)
    import_colmap(first, options)
    before = (out / "dataset.json").read_bytes()
    with pytest.raises(DatasetError, match="contains the scene first of other images; choose another out"):
        import_colmap(second, options)
    assert (out / "dataset.json").read_bytes() == before
    import_colmap(first, replace(options, tuple_size=2))  # the same images with other options
    assert (out / "dataset.json").read_bytes() != before
