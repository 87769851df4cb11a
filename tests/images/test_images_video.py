"""Decoding videos: when frames are shown, their rotation, and files that are not videos."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from disk.errors import MissingExtraError, VideoError
from disk.images.video import Damage, decode_frames, is_video, read_timeline
from made_video import panning_frames, write_sound, write_video

pytest.importorskip("av")

CORNERS = np.array([[[200, 30, 30], [30, 200, 30]], [[30, 30, 200], [200, 200, 30]]], np.uint8)


def decoded(path: Path, begin: float = 0.0) -> tuple[list[float], list[np.ndarray]]:
    found = [(frame.time, frame.pixels()) for frame in decode_frames(path, read_timeline(path), begin, Damage())]
    return [time for time, _ in found], [pixels for _, pixels in found]


# the effect of ISO 14496-12's display matrix on rows and columns: a quarter turn clockwise maps (1, 0) to (0, 1)
@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((1, 0, 0, 1), lambda stored: stored),
        ((0, 1, -1, 0), lambda stored: np.rot90(stored, -1)),
        ((-1, 0, 0, -1), lambda stored: np.rot90(stored, 2)),
        ((0, -1, 1, 0), lambda stored: np.rot90(stored, 1)),
        ((-1, 0, 0, 1), lambda stored: stored[:, ::-1]),
        ((1, 0, 0, -1), lambda stored: stored[::-1]),
        ((0, 1, 1, 0), lambda stored: stored.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda stored: np.rot90(stored, 2).swapaxes(0, 1)),
    ],
)
def test_frames_are_upright(tmp_path, matrix, shown):
    stored = CORNERS.repeat(32, axis=0).repeat(48, axis=1)
    _, (pixels, *_) = decoded(write_video(tmp_path / "turned.mp4", [stored] * 2, matrix=matrix))
    expected = shown(stored)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 10  # chroma is stored at half resolution


def test_wide_pixels_are_made_square(tmp_path):
    frames = panning_frames(2, size=(120, 96))
    _, (pixels, _) = decoded(write_video(tmp_path / "wide.mp4", frames, aspect=Fraction(4, 3)))
    assert pixels.shape == (96, 160, 3)


def test_frames_come_at_their_display_times(tmp_path):
    """A variable frame rate, as in phone videos; also from a time in between, although that is not a key frame."""
    stamps = [1000, 1033, 1067, 1100, 1500, 1533, 2400, 2433, 4000, 4010, 4020, 4031, 4041]
    path = write_video(tmp_path / "varying.mkv", panning_frames(len(stamps)), stamps)
    times, _ = decoded(path)
    expected = [(stamp - 1000) / 1000 for stamp in stamps]
    assert times == pytest.approx(expected, abs=1e-9)
    assert decoded(path, 1.4)[0] == pytest.approx(expected[6:], abs=1e-9)
    assert read_timeline(path).seconds == pytest.approx(3.041, abs=0.05)


def test_without_stamps_frames_are_counted(tmp_path):
    path = write_video(tmp_path / "raw.h264", panning_frames(15), rate=25)
    times, _ = decoded(path)
    assert times == pytest.approx(np.arange(15) / read_timeline(path).rate)


def test_concatenated_recordings_are_read_to_the_end(tmp_path):
    """Their time stamps restart in the middle, and their size changes: frames of the first size are kept."""
    first = write_video(tmp_path / "first.ts", panning_frames(12))
    again = write_video(tmp_path / "again.ts", panning_frames(12))
    small = write_video(tmp_path / "small.ts", panning_frames(10, size=(96, 64)))
    path = tmp_path / "together.ts"
    path.write_bytes(first.read_bytes() + again.read_bytes() + small.read_bytes())
    damage = Damage()
    times = [frame.time for frame in decode_frames(path, read_timeline(path), 0.0, damage)]
    assert len(times) >= 23
    assert np.all(np.diff(times) > 0)
    assert damage.other_sizes >= 9


def test_a_sharp_frame_has_a_higher_sharpness(tmp_path):
    frames = panning_frames(6, sharp=[0, 2, 4])
    path = write_video(tmp_path / "blurred.mp4", frames)
    found = [frame.sharpness() for frame in decode_frames(path, read_timeline(path), 0.0, Damage())]
    assert min(found[0::2]) > 3 * max(found[1::2])


def test_files_that_are_not_videos(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video\n" * 1000)
    whole = write_video(tmp_path / "whole.mp4", panning_frames(10))
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:-2000])  # without the index at its end
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{whole}\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.mkv").write_text(f"ffconcat version 1.0\nfile {whole}\n")
    write_sound(tmp_path / "sound.mp4")
    for name, message in {
        "empty.mp4": "is empty",
        "text.mp4": "not a video that can be read",
        "cut.mp4": "not a video that can be read, or is truncated",
        "list.m3u8": "not a video that can be read",
        "list.mkv": "not a video that can be read",
        "sound.mp4": "has no pictures, only sound",
        "none.mp4": "no file",
        ".": "is a folder",
    }.items():
        with pytest.raises(VideoError, match=message):
            read_timeline(tmp_path / name)


def test_videos_are_recognized_by_their_names(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    assert is_video("a/b.MOV")
    assert not is_video("a/b.jpg")
    assert not is_video(tmp_path / "folder.mp4")


def test_without_pyav_the_message_explains_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr("disk.errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'disk-features\[video\]'"):
        read_timeline(tmp_path / "a.mp4")
