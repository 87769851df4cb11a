"""Damaged copies of small valid files are read or refused in one line, in bounded time and memory."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from fuzz_check import PER_FILE, beside, check
from fuzz_seeds import features_of, make_artifacts, make_model
from PIL import Image

from disk.datasets.files import Calibration, read_calibration, read_depth, write_calibration, write_depth
from disk.datasets.scenes import SceneSet
from disk.errors import ColmapError
from disk.evaluation.ground_truth import read_imw_scene, read_pose_pairs
from disk.images.listing import list_images
from disk.images.masks import load_mask
from disk.images.reading import image_orientation, image_size, read_upright
from disk.images.resizing import Placement
from disk.model.checkpoints import read_state
from disk.pairs.choose import from_file
from disk.pipeline.feature_cache import FeatureCache, upright_image_size
from disk.pipeline.match_writers import MatchWriters
from disk.pipeline.summary import read_summary
from disk.pipeline.take_up import take_up
from disk.storage.artifacts import DESCRIPTORS, KEYPOINTS, MATCHES, SCORES, feature_writer, read_features, read_matches
from disk.storage.forget import forget_images, known_images
from disk.storage.layouts import HlocFeatures
from disk.storage.shards import SHARD_BYTES
from disk.storage.transforms import read_transforms
from disk.training.logs import Logs
from disk.training.options import TrainOptions
from disk.training.selection import validation_scores
from disk.training.state import VERSION, _plain, saved_options
from textured import textured_photo

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="bounds memory by way of /proc")

PHOTO = textured_photo(48, 64)
K = "50 0 31.5 0 50 23.5 0 0 1"


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp", "ppm", "heic"])
def test_images(tmp_path: Path, suffix: str) -> None:
    if suffix == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    seed = tmp_path / f"seed.{suffix}"
    Image.fromarray(PHOTO).save(seed, **({} if suffix in ("bmp", "ppm") else {"exif": exif}))

    def read(path: Path) -> None:
        image_size(path)
        image_orientation(path)
        read_upright(path)

    check(tmp_path, seed, read)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "jpeg", "packbits"])
def test_compressed_tiff(tmp_path: Path, compression: str) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "seed.tif", compression=compression)
    check(tmp_path, tmp_path / "seed.tif", read_upright)


def test_masks(tmp_path: Path) -> None:
    Image.fromarray(PHOTO[..., 0] > 100).save(tmp_path / "seed.png")
    check(tmp_path, tmp_path / "seed.png", lambda path: load_mask(path, Placement(64, 48, 1.0, 1.0, 1)))


@pytest.mark.parametrize("file", [KEYPOINTS, DESCRIPTORS, SCORES])
def test_features(tmp_path: Path, file: str) -> None:
    artifacts = make_artifacts(tmp_path / "artifacts")

    def read(path: Path) -> None:
        folder = beside(path)
        for name in (KEYPOINTS, DESCRIPTORS, SCORES):
            shutil.copy(artifacts / name, folder / name)
        shutil.copy(path, folder / file)
        with read_features(folder) as store:
            cache = FeatureCache(store, 1 << 20, False, lambda features: features)
            for name in store:
                cache[name], upright_image_size(store, name), store.image_path(name)
        writer = feature_writer(folder, {}, "weights", False, SHARD_BYTES)
        writer.done(), writer.values("mask")

    check(tmp_path, artifacts / file, read, 3 * PER_FILE)


def test_matches(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        folder = beside(path)
        shutil.copy(path, folder / MATCHES)
        with read_matches(folder) as store:
            for pair in store.pairs():
                store[pair]
        MatchWriters(folder, "{}", 1, False, False, {"a": 5, "sub/b": 5})

    check(tmp_path, make_artifacts(tmp_path / "artifacts") / MATCHES, read, 2 * PER_FILE)


def test_shards(tmp_path: Path) -> None:
    writer = feature_writer(folder := tmp_path / "artifacts", {}, "weights", False, SHARD_BYTES)
    folder.mkdir()
    writer.add("a", features_of(0))
    writer.flush()
    (shard,) = folder.glob(".features*")

    def read(path: Path) -> None:
        folder = beside(path)
        shutil.copy(path, folder / shard.name)
        known_images(folder)
        writer = feature_writer(folder, {}, "weights", False, SHARD_BYTES)
        writer.done(), writer.values("mask"), writer.finish()
        forget_images(folder, ["a"])

    check(tmp_path, shard, read, 2 * PER_FILE)


def test_features_of_hloc(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "seed.h5", "w") as file:
        group = file.create_group("x/a.jpg")
        for key, value in {"keypoints": (5, 2), "descriptors": (128, 5), "scores": (5,)}.items():
            group[key] = np.zeros(value)
        group["image_size"] = [64, 48]

    def read(path: Path) -> None:
        with HlocFeatures(path) as store:
            for name in store:
                store[name], store.image_size(name), store.has_scores(name)

    check(tmp_path, tmp_path / "seed.h5", read)


def test_files_of_a_data_set(tmp_path: Path) -> None:
    write_depth(tmp_path, "seed.jpg", np.ones((48, 64), np.float32))
    check(tmp_path, tmp_path / "seed.h5", read_depth)
    write_calibration(tmp_path, "a.jpg", Calibration(np.diag([50.0, 50, 1]), np.eye(3), np.zeros(3)))
    check(tmp_path, tmp_path / "calibration_a.jpg.h5", read_calibration)
    scene = {"image_path": ".", "calib_path": ".", "images": ["a.jpg", "b/c.png"], "tuples": [[0, 1], [1, 0]]}
    (tmp_path / "dataset.json").write_text(json.dumps({"scene": scene}))
    check(tmp_path, tmp_path / "dataset.json", SceneSet.load, 2 * PER_FILE)


def test_lists_of_pairs_and_ground_truth(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("a sub/b\n# nothing\nc d e\n")
    check(tmp_path, tmp_path / "pairs.txt", lambda path: from_file(path, ["a", "sub/b", "c", "d"]))
    Image.fromarray(PHOTO).save(tmp_path / "a.png")
    (tmp_path / "truth.txt").write_text(f"a.png a.png 0 0 {K} {K} 1 0 0 0 0 1 0 0 0 0 1 1 0 0 0 1\n")
    check(tmp_path, tmp_path / "truth.txt", lambda path: read_pose_pairs(path, tmp_path))


def test_scenes_of_the_imw(tmp_path: Path) -> None:
    scene = tmp_path / "scene"
    for folder in ("images", "new-vis-pairs", "calibration"):
        (scene / folder).mkdir(parents=True)
    camera = Calibration(np.array([[50, 0, 31.5], [0, 50, 23.5], [0, 0, 1]]), np.eye(3), np.zeros(3))
    for name in "ab":
        Image.fromarray(PHOTO).save(scene / "images" / f"{name}.png")
        write_calibration(tmp_path, name, camera)
        shutil.copy(tmp_path / f"calibration_{name}.h5", scene / "calibration")
    np.save(keys := tmp_path / "keys.npy", np.array(["a-b"]))
    goal = scene / "new-vis-pairs" / "keys-th-0.1.npy"

    def read(path: Path) -> None:
        shutil.copy(path, goal)
        read_imw_scene(scene)

    check(tmp_path, keys, read, 2 * PER_FILE)


def test_transforms_of_nerfstudio(tmp_path: Path) -> None:
    frame = {"file_path": "a.png", "transform_matrix": np.eye(4).tolist()}
    camera = {"camera_angle_x": 1.0, "w": 64, "h": 48}
    (tmp_path / "seed.json").write_text(json.dumps(camera | {"frames": [frame]}))
    check(tmp_path, tmp_path / "seed.json", read_transforms)
    for content in ("[" * 100_000, json.dumps({"w": float("inf"), "h": 1, "fl_x": 1, "frames": [frame]})):
        (tmp_path / "seed.json").write_text(content)
        with pytest.raises(ColmapError, match=r"seed\.json"):
            read_transforms(tmp_path / "seed.json")


@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_models_of_colmap(tmp_path: Path, kind: str) -> None:
    from disk.colmap.workspace import open_workspace, read_depth_map

    model = tmp_path / "model"
    make_model(model, kind)

    for part in sorted(model.iterdir()):

        def read(path: Path, part: Path = part) -> None:
            shutil.copytree(model, folder := beside(path) / "sparse")
            shutil.copy(path, folder / part.name)
            open_workspace(folder.parent, tmp_path)

        check(tmp_path, part, read, 8 if part.name == "images.bin" else 3)
    if kind == "bin":
        (tmp_path / "depth.bin").write_bytes(b"4&3&1&" + bytes(48))
        check(tmp_path, tmp_path / "depth.bin", read_depth_map)


def test_databases_of_colmap(tmp_path: Path) -> None:
    from disk.colmap.database import difference, fingerprint, open_database, write_database
    from disk.colmap.plan import plan_cameras

    artifacts = make_artifacts(tmp_path / "artifacts")
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.jpg"):
        Image.fromarray(PHOTO).save(tmp_path / "photos" / name)
    with read_features(artifacts) as features, read_matches(artifacts) as matches:
        images = list_images(tmp_path / "photos")
        write_database(tmp_path / "seed.db", plan_cameras(images, "SIMPLE_RADIAL"), features, matches)

    def read(path: Path) -> None:
        with read_features(artifacts) as features, read_matches(artifacts) as matches, open_database(path) as opened:
            fingerprint(opened), difference(opened, features, matches), opened.num_verified_image_pairs()

    check(tmp_path, tmp_path / "seed.db", read)


def test_checkpoints(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = {"a": torch.zeros(4), "b": torch.ones(2, 2)}
    torch.save({"disk": state}, tmp_path / "seed.pth")
    torch.save({"disk": state}, tmp_path / "older.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "seed.safetensors")
    for name in ("seed.pth", "older.pth", "seed.safetensors"):
        check(tmp_path, tmp_path / name, read_state)
    training = {"disk": state, "options": _plain(None, TrainOptions()), "version": VERSION}
    torch.save(training, tmp_path / "training.pth")
    check(tmp_path, tmp_path / "training.pth", saved_options)


def test_logs_of_training(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    logs = Logs(tmp_path / "run", 0)
    for step in (1, 2):
        logs.write(step, {"train/reward_per_pair": 1.0, "epoch": 1.0})
    logs.close()
    (events,) = (tmp_path / "run").glob("*tfevents*")

    def read(path: Path) -> None:
        shutil.copy(path, beside(path) / "events.out.tfevents.1")
        validation_scores(beside(path))

    check(tmp_path, events, read, valid=False)

    def resume(path: Path) -> None:
        shutil.copy(path, beside(path) / "log.jsonl")
        Logs(beside(path), 1).close()

    check(tmp_path, tmp_path / "run" / "log.jsonl", resume)


def test_records_of_earlier_runs(tmp_path: Path) -> None:
    (tmp_path / "options.json").write_text(json.dumps({"a": "b", "c": "d"}))

    def read(path: Path) -> None:
        folder = beside(path)
        for name in ("summary.json", "options.json"):
            shutil.copy(path, folder / name)
        with pytest.raises(ColmapError):
            read_summary(folder)
        take_up(folder, {"a": "b", "c": "d"}, False)

    check(tmp_path, tmp_path / "options.json", read)
