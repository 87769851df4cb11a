"""disk reconstruct on a video: frames first, then pairs of neighbours in time and loops."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import disk
from disk.cli.main import main
from disk.errors import ArtifactError, ColmapError, ImageError, PartialFailureError, VideoError
from disk.geometry.pose import align_similarity, rotation_error
from disk.images.listing import list_images
from disk.pipeline import reconstruct as stage
from disk.pipeline.reconstruct import Reconstruction, ReconstructOptions, reconstruct
from disk.storage.artifacts import read_matches
from disk.storage.forget import known_images
from made_video import panning_frames, write_video
from rendered_walk import FOCAL, film_walk
from synthetic_scene import HEIGHT, WIDTH, make_scene, write_features

pytest.importorskip("av")


class Filmed:
    """A video of the scene's size; `detect` finds a scene with as many cameras as frames."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.video = write_video(tmp_path / "walk.mov", panning_frames(24, size=(WIDTH, HEIGHT)), rate=12)
        self.out = tmp_path / "out"
        self.detected: list[str] = []
        monkeypatch.setattr(stage, "detect", self.detect)
        monkeypatch.setattr(stage, "turn_unconnected", lambda *arguments, **options: [])

    def detect(self, artifacts: Path, images: Path, options: Any, only: set[str]) -> None:
        names = [file.name for file in list_images(images)]
        todo = [name for name in names if name not in known_images(artifacts)]
        self.detected += todo
        if todo:
            write_features(make_scene(names, points=120), artifacts, todo)

    def run(self, **options: Any) -> Reconstruction:
        return reconstruct(self.video, self.out, ReconstructOptions(**options))


@pytest.fixture
def filmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Filmed:
    return Filmed(tmp_path, monkeypatch)


def test_a_video_becomes_a_model_of_its_frames(filmed, capsys):
    result = filmed.run(fps=4.0, overlap=2)
    assert (result.images, result.registered) == (8, 8)
    assert Path(result.photos) == filmed.out / "frames"
    assert [(camera["images"], camera["first"]) for camera in result.models[0]["cameras"]] == [
        (8, filmed.detected[0] + ".jpg")
    ]
    assert next(iter(result.seconds)) == "frames"
    times = list(json.loads((filmed.out / "frames" / "frames.json").read_text())["times"].values())
    assert np.allclose(np.diff(times), 0.25, atol=0.1)
    order = sorted(filmed.detected)
    with read_matches(filmed.out / "artifacts") as matches:
        apart = sorted(order.index(second) - order.index(first) for first, second in matches.pairs())
    # the two after each frame, and the similar ones (all, here) more than twice as far away
    assert apart[: 7 + 6] == [1] * 7 + [2] * 6
    assert set(apart) == {1, 2, 5, 6, 7}
    # the same by the command: nothing is done twice
    filmed.detected.clear()
    assert main(["reconstruct", str(filmed.video), str(filmed.out), "--fps", "4", "--overlap", "2"]) == 0
    assert filmed.detected == []
    capsys.readouterr()


def test_pairs_and_cameras_follow_the_options(filmed):
    result = filmed.run(frames=6, pairs="sequential", overlap=1, camera_per="folder")
    assert result.images == 6
    with read_matches(filmed.out / "artifacts") as matches:
        assert len(matches.pairs()) == 5


def test_another_rate_is_another_model(filmed):
    filmed.run(frames=4)
    with pytest.raises(ArtifactError, match=r"has 4 frames of .*, chosen from 4 intervals, but frames=5 makes 5;"):
        filmed.run(frames=5)
    assert filmed.run(frames=5, overwrite=True).images == 5


def test_a_truncated_video_gives_its_remaining_frames(filmed):
    whole = write_video(filmed.video.with_suffix(".mkv"), panning_frames(48, size=(WIDTH, HEIGHT)), rate=12)
    filmed.video = whole.with_name("cut.mkv")
    filmed.video.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    with pytest.raises(PartialFailureError, match="cut short"):
        filmed.run(frames=4)
    assert stage.read_summary(filmed.out).registered == 4
    assert filmed.run(frames=4, keep_going=True).registered == 4


def test_mistakes_with_videos(filmed, tmp_path, caplog):
    with pytest.raises(VideoError, match="is a single video; rig=True needs one folder"):
        filmed.run(rig=True)
    with pytest.raises(VideoError, match="no file"):
        reconstruct(tmp_path / "none.mp4", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(ImageError, match=r"1 other file \(1 \.mov\), but no images .*`disk frames` extracts images"):
        reconstruct(filmed.video.parent, tmp_path / "other")
    (tmp_path / "foreign" / "sparse").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="was not made by"):
        reconstruct(filmed.video, tmp_path / "foreign")
    assert not (tmp_path / "foreign" / "frames").exists()
    with pytest.raises(ColmapError, match="at least two"):
        filmed.run(frames=1)


@pytest.mark.slow
def test_a_walk_is_reconstructed(tmp_path):
    """With the network: a video that its display matrix turns upright, with every other frame blurred."""
    import pycolmap

    video, centres = film_walk(tmp_path / "walk.mp4", frames=24)
    params = f"{FOCAL},{320 / 2},{240 / 2}"
    options = ReconstructOptions(
        fps=4.0, n=500, device="cpu", camera_model="simple-pinhole", camera_params=params, fix_intrinsics=True
    )
    result = disk.reconstruct(video, tmp_path / "out", options)
    assert result.registered == result.images == 12
    times = json.loads((tmp_path / "out" / "frames" / "frames.json").read_text())["times"]
    taken = np.rint(np.array(list(times.values())) * 8).astype(int)
    assert np.all(taken % 2 == 0)  # the sharp ones
    model = pycolmap.Reconstruction(tmp_path / "out" / "sparse" / "0")
    by_name = {image.name: image.projection_center() for image in model.images.values()}
    found = np.stack([by_name[name] for name in times])
    scale, R, t = align_similarity(found, centres[taken])
    assert np.abs(scale * found @ R.T + t - centres[taken]).max() < 0.02  # for a walk of 1.6
    assert rotation_error(R, np.eye(3)) < 1  # all frames have the same orientation, upright
