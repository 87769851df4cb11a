"""disk frames: the sharp frames of a video, evenly spread, extracted only once."""

from __future__ import annotations

import json
import os
import re
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import disk
from disk.cli.main import main
from disk.errors import ArtifactError, DiskError, PartialFailureError, VideoError
from disk.pipeline import frames as stage
from disk.pipeline.frames import FramesOptions, frames, sharpest
from made_video import panning_frames, write_video

pytest.importorskip("av")
FPS = 30


@dataclass(eq=False)
class Seen:
    time: float
    sharp: float

    def sharpness(self) -> float:
        return self.sharp


@given(
    st.lists(st.tuples(st.floats(0.001, 1), st.floats(0, 9)), min_size=1, max_size=60),
    st.integers(1, 12),
)
def test_each_part_gives_one_frame_and_it_is_sharp(steps, parts):
    times = np.cumsum([step for step, _ in steps])
    part = (times[-1] + 0.1) / parts
    seen = [Seen(float(time), sharp) for time, (_, sharp) in zip(times, steps, strict=True)]
    chosen = list(sharpest(seen, part, parts))
    part_of = {frame: min(int(frame.time / part), parts - 1) for frame in seen}
    assert [part_of[frame] for frame in chosen] == sorted({part_of[frame] for frame in seen})
    for frame in chosen:
        rivals = [other for other in seen if part_of[other] == part_of[frame]]
        assert all(frame.sharp >= other.sharp / 2 - 1e-9 for other in rivals)


def test_of_equally_sharp_frames_the_middle_ones_are_chosen():
    chosen = list(sharpest([Seen(i / 30, 5.0) for i in range(300)], 0.5, 20))
    assert np.allclose(np.diff([frame.time for frame in chosen]), 0.5, atol=1 / 30 + 1e-9)


def test_an_endless_video_needs_no_more_memory():
    alive: weakref.WeakSet[Seen] = weakref.WeakSet()
    most = 0

    def endless():
        for i in range(200_000):
            frame = Seen(i / 30, float(i * 7919 % 101))
            alive.add(frame)
            yield frame

    for _ in sharpest(endless(), 0.5, 13_334):
        most = max(most, len(alive))
    assert most <= 4


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Two seconds at 30 fps; each tenth of a second has one sharp frame, at a different position each time."""
    return write_video(tmp_path / "walk.mp4", panning_frames(60, sharp=sharp_ones()), rate=FPS)


def sharp_ones() -> list[int]:
    return [5 * part + place for part, place in enumerate(np.random.default_rng(3).integers(0, 5, 12))]


def test_sharp_frames_with_their_times(video, tmp_path):
    result = frames(video, tmp_path / "out", FramesOptions(fps=6.0))
    expected = [i / FPS for i in sharp_ones()]
    assert list(result.times.values()) == pytest.approx(expected, abs=0.001)
    assert list(result.times) == [f"frame-{int(time * 1000 + 1e-6):09d}.jpg" for time in expected]
    assert json.loads((tmp_path / "out" / "frames.json").read_text())["times"] == result.times
    assert (result.width, result.height, result.problem) == (160, 96, "")
    truth = panning_frames(60)
    for name, i in zip(result.times, sharp_ones(), strict=True):
        with Image.open(tmp_path / "out" / name) as image:
            assert image.size == (160, 96)
            assert np.abs(np.asarray(image).astype(int) - truth[i]).mean() < 12


def test_a_number_of_frames_in_place_of_a_rate(video, tmp_path):
    result = disk.frames(video, tmp_path / "out", disk.FramesOptions(frames=7))
    times = list(result.times.values())
    assert len(times) == 7
    assert np.diff(times).min() > 0.25 * 2 / 7
    assert np.diff(times).max() < 1.75 * 2 / 7


def test_where_the_picture_does_not_change_there_is_no_frame(tmp_path):
    """A variable rate: nothing new is shown for seconds, and no frame is written twice."""
    stamps = [*range(0, 1000, 50), 4000, 4050]
    video = write_video(tmp_path / "still.mkv", panning_frames(len(stamps)), stamps)
    result = frames(video, tmp_path / "out", FramesOptions(fps=2.0))
    assert len(result.times) == 3
    assert [int(time * 2) for time in result.times.values()] == [0, 1, 8]


def test_an_interrupted_run_is_resumed(video, tmp_path, monkeypatch):
    whole = frames(video, tmp_path / "whole", FramesOptions(fps=6.0))
    written: list[float] = []
    write = stage._write

    def interrupted(frame, out):
        if len(written) == 6:
            raise KeyboardInterrupt
        written.append(frame.time)
        write(frame, out)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            frames(video, tmp_path / "out", FramesOptions(fps=6.0))
        assert not (tmp_path / "out" / "frames.json").exists()
        written.clear()
        patch.setattr(stage, "_write", lambda frame, out: (written.append(frame.time), write(frame, out)))
        resumed = frames(video, tmp_path / "out", FramesOptions(fps=6.0))
        assert len(written) == 6
        assert frames(video, tmp_path / "out", FramesOptions(fps=6.0)) == resumed
        assert len(written) == 6
    assert resumed.times == whole.times
    for name in whole.times:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_truncated_video_gives_its_remaining_frames(video, tmp_path, capsys):
    whole = write_video(tmp_path / "whole.mkv", panning_frames(120), rate=FPS)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: os.path.getsize(whole) // 2])
    with pytest.raises(PartialFailureError, match=r"cut short: [12]\.\d s of 4\.0 s"):
        frames(cut, tmp_path / "out")
    note = json.loads((tmp_path / "out" / "frames.json").read_text())
    assert len(note["times"]) == len(list((tmp_path / "out").glob("*.jpg"))) >= 3
    assert main(["frames", str(cut), str(tmp_path / "out")]) == 1  # reported again, although there is nothing to do
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].startswith("disk frames: ")
    assert printed.out.startswith(f"{len(note['times'])} frames of ")


def test_damage_in_the_middle_costs_the_frames_around_it(video, tmp_path):
    content = bytearray(write_video(tmp_path / "whole.ts", panning_frames(120), rate=FPS).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 6000] = bytes(6000)
    path = tmp_path / "damaged.ts"
    path.write_bytes(content)
    with pytest.raises(PartialFailureError, match="damaged"):
        frames(path, tmp_path / "out", FramesOptions(fps=10.0))
    assert 20 <= len(list((tmp_path / "out").glob("*.jpg"))) <= 40


def test_unrelated_files_stay(video, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(ArtifactError, match=r"contains other files, such as holiday\.jpg"):
            frames(video, folder, FramesOptions(overwrite=overwrite))
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == ["holiday.jpg"]


def test_the_output_of_another_stage_is_not_taken_for_frames(video, tmp_path):
    folder = tmp_path / "undistorted"
    (folder / "images").mkdir(parents=True)
    note = json.dumps({"made of": "0123456789abcdef"})  # as `disk undistort` and `disk map` record it
    (folder / ".made-from.json").write_text(note)
    for overwrite in (False, True):
        with pytest.raises(ArtifactError, match="contains other files, such as images"):
            frames(video, folder, FramesOptions(overwrite=overwrite))
    assert (folder / ".made-from.json").read_text() == note


def test_a_rate_beyond_all_frames_gives_each_of_them(video, tmp_path):
    result = frames(video, tmp_path / "out", FramesOptions(fps=1e308))
    assert len(result.times) == 60


def test_other_frames_replace_the_earlier_ones_on_request(video, tmp_path):
    out = tmp_path / "out"
    frames(video, out, FramesOptions(fps=2.0))
    remedy = "; use another output to keep them, or overwrite=True to replace them"
    for options in (FramesOptions(fps=3.0), FramesOptions(frames=6)):
        wanted = "frames=6" if options.frames else "fps=3.0"
        message = f"{out} has 4 frames of {video}, chosen from 4 intervals, but {wanted} makes 6{remedy}"
        with pytest.raises(ArtifactError, match=f"^{re.escape(message)}$"):
            frames(video, out, options)
    other = write_video(tmp_path / "other.mp4", panning_frames(40), rate=FPS)
    message = f"{out} has 4 frames of another video ({video}), not of {other}{remedy}"
    with pytest.raises(ArtifactError, match=f"^{re.escape(message)}$"):
        frames(other, out)
    (out / "mine.txt").write_text("notes")
    assert len(frames(video, out, FramesOptions(fps=3.0, overwrite=True)).times) == 6
    assert len(list(out.glob("*.jpg"))) == 6
    assert (out / "mine.txt").exists()


def test_a_moved_video_is_the_same(video, tmp_path):
    first = frames(video, tmp_path / "out")
    video.rename(tmp_path / "renamed.mp4")
    os.utime(tmp_path / "renamed.mp4", (0, 0))
    assert frames(tmp_path / "renamed.mp4", tmp_path / "out").times == first.times


@pytest.mark.parametrize("wrong", [{"fps": 0.0}, {"fps": -1.0}, {"fps": float("nan")}, {"frames": 0}])
def test_invalid_rates(video, tmp_path, wrong):
    with pytest.raises(DiskError, match="must be"):
        frames(video, tmp_path / "out", FramesOptions(**wrong))


def test_the_command_says_what_it_wrote(video, tmp_path, capsys):
    assert main(["frames", str(video), str(tmp_path / "out"), "--fps", "3"]) == 0
    assert capsys.readouterr().out == f"6 frames of 160 x 96 pixels from 2.0 s of video: {tmp_path / 'out'}\n"
    assert main(["frames", str(video), str(tmp_path / "out"), "--fps", "3", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["times"]) == 6
    assert main(["frames", str(tmp_path / "none.mp4"), str(tmp_path / "other")]) == 2
    assert not (tmp_path / "other").exists()


def test_a_video_that_cannot_be_decoded_leaves_no_frames(tmp_path, monkeypatch, video):
    monkeypatch.setattr(stage, "decode_frames", lambda *arguments: iter(()))
    with pytest.raises(VideoError, match="no frame can be decoded"):
        frames(video, tmp_path / "out")
