"""Extracting photos from a video: the sharpest frame of each of equal intervals."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from PIL import Image

from disk.errors import ArtifactError, DiskError, PartialFailureError, VideoError
from disk.images.video import Damage, Frame, Timeline, decode_frames, read_timeline
from disk.options import AnyPath, Options, check_at_least, option
from disk.pipeline.options import FrameChoice
from disk.pipeline.unused import log_unused, unused_flags
from disk.progress import counted, log, progress_bar
from disk.storage.locks import folder_lock
from disk.storage.made_from import made_from, note_made_from
from disk.storage.new_file import new_file, write_json

NOTE = "frames.json"
_NAME = re.compile(r"frame-(\d{9,})\.jpg")  # milliseconds
_QUALITY = 95  # of JPEG
_MOST = 1 << 53  # intervals that are counted exactly
_END = 1 << 20  # bytes at each end of a video that go into its fingerprint


@dataclass(frozen=True, kw_only=True)
class FramesOptions(FrameChoice, Options):
    """Which frames to keep."""

    overwrite: bool = False
    """Replace the frames of an earlier run."""


@dataclass(frozen=True)
class VideoFrames:
    """The frames written; also the content of frames.json.

    folder: of the frames
    video: the video file
    recorded: recording time according to the camera (UTC), or ''
    seconds: duration of the readable part of the video
    width, height: of the upright frames, in pixels
    times: time of each file, in seconds since the first frame of the video
    other_sizes: number of frames skipped because the video changes its size
    problem: why a part of the video is missing, or ''
    """

    folder: str
    video: str
    recorded: str
    seconds: float
    width: int
    height: int
    times: dict[str, float]
    other_sizes: int = 0
    problem: str = ""


@runtime_checkable
class _Sharp(Protocol):
    """A frame with a time in seconds and a sharpness."""

    @property
    def time(self) -> float: ...

    def sharpness(self) -> float: ...


T = TypeVar("T", bound=_Sharp)


def frames(video: AnyPath, out: AnyPath, options: FramesOptions = FramesOptions()) -> VideoFrames:
    """Write sharp frames of a video, evenly spread, as out/frame-MILLISECONDS.jpg, and their times as out/frames.json.

    The frames are upright and have square pixels; one is in memory at a time. Resumes an interrupted run.

    Raises VideoError for a file that is not a video or has no frames, ArtifactError if `out` contains other files or
    frames chosen with other options, MissingExtraError without PyAV, PartialFailureError if the video is cut short or
    damaged and the rest is done.
    """
    check_frames(options)
    if options.frames is not None:
        log_unused(unused_flags(options, {"fps": f"a video without {option('frames')}"}))
    video, out = Path(video), Path(out)
    timeline = read_timeline(video)
    parts = options.frames or max(1, round(min(timeline.seconds * options.fps, _MOST)))
    with folder_lock(out):
        _take_up(out, video, {"video": _fingerprint(video), "frames": parts}, options)
        result = _read_note(out) or _write_frames(video, out, timeline, parts)
    if len(result.times) < parts:
        log.info("%s has frames in %d of %s", video, len(result.times), counted(parts, "interval"))
    log.info("%s of %.1f s of video in %s", counted(len(result.times), "frame"), result.seconds, out)
    if result.problem:
        raise PartialFailureError(
            f"{video} {result.problem}; {counted(len(result.times), 'readable frame')} in {out}", result
        )
    return result


def check_frames(options: FrameChoice) -> None:
    """Raise DiskError for an invalid frame rate or number of frames."""
    if not 0 < options.fps < math.inf:
        raise DiskError(f"{option('fps', options.fps)}: must be above 0")
    check_at_least(options, frames=1)


def sharpest(found: Iterable[T], part: float, parts: int) -> Iterator[T]:
    """Yield the sharpest frame of each interval that has frames.

    A frame at the end of an interval has to be twice as sharp as one in the middle, so that frames stay apart.
    found: frames in order of time
    part: length of an interval in seconds
    parts: number of intervals
    """
    best: tuple[int, float, T] | None = None
    for frame in found:
        number = min(int(frame.time / part), parts - 1)
        from_middle = min(1.0, abs(2 * (frame.time / part - number) - 1))
        score = frame.sharpness() * (1 - from_middle / 2)
        if best is not None and best[0] != number:
            yield best[2]
            best = None
        if best is None or score > best[1]:
            best = number, score, frame
    if best is not None:
        yield best[2]


def _write_frames(video: Path, out: Path, timeline: Timeline, parts: int) -> VideoFrames:
    done, part, damage = _times(out), timeline.seconds / parts, Damage()
    # frames are written in order, so the interval of the last one is done
    last = max(done.values(), default=None)
    begin = 0.0 if last is None else (int(last / part) + 1) * part
    if done:
        log.info("%s: resuming at %.1f s, after %s", out, begin, counted(len(done), "frame"))
    found = decode_frames(video, timeline, begin, damage)
    bar = progress_bar("frames", "frame", parts, len(done))
    with bar, contextlib.closing(sharpest(found, part, parts)) as chosen:  # type: ignore[type-var]
        for frame in chosen:
            _write(frame, out)
            bar.update(1)
    times = _times(out)
    if not times:
        raise VideoError(f"{video}: no frame can be decoded; is it damaged or encrypted?")
    with Image.open(out / next(iter(times))) as first:
        width, height = first.size
    if damage.other_sizes:
        log.warning("%s changes its size: skipped %s", video, counted(damage.other_sizes, "frame"))
    result = VideoFrames(
        str(out.absolute()),
        str(video.absolute()),
        timeline.recorded,
        round(timeline.seconds, 3),
        width,
        height,
        times,
        damage.other_sizes,
        _problem(timeline, damage),
    )
    write_json(out / NOTE, asdict(result))
    return result


def _problem(timeline: Timeline, damage: Damage) -> str:
    if timeline.is_cut_short:
        return f"is cut short: {timeline.seconds:.1f} s of {timeline.declared:.1f} s can be read"
    return f"is damaged: {counted(damage.packets, 'packet')} cannot be decoded" if damage.packets else ""


def _write(frame: Frame, out: Path) -> None:
    # rounded down, so that a resumed run does not assign the frame to the next interval
    with new_file(out / f"frame-{int(frame.time * 1000):09d}.jpg") as temporary:
        Image.fromarray(frame.pixels()).save(temporary, "JPEG", quality=_QUALITY)


def _times(out: Path) -> dict[str, float]:
    """Times in seconds of the frames in a folder, by file, in order."""
    names = {path.name: _NAME.fullmatch(path.name) for path in out.iterdir()}
    times = {name: int(match[1]) / 1000 for name, match in names.items() if match}
    return dict(sorted(times.items(), key=lambda item: item[1]))


def _take_up(out: Path, video: Path, now: dict[str, Any], options: FramesOptions) -> None:
    """Prepare the folder: delete the frames of an earlier run if `overwrite` is set.

    Raises ArtifactError if it is not set and they were chosen with other options, or if the folder has other files.
    """
    before = made_from(out)
    if before.keys() != now.keys():  # other stages have a file of this name as well
        before = {}
    others = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    if not before and others:
        raise ArtifactError(f"{out} contains other files, such as {others[0]}; use another output for the frames")
    if before and before != now and not options.overwrite:
        raise ArtifactError(
            f"{out} has {_difference(out, video, before, now, options)}; use another output to keep them, or "
            f"{option('overwrite', True)} to replace them"
        )
    if options.overwrite:
        (out / NOTE).unlink(missing_ok=True)
        for name in _times(out):
            (out / name).unlink()
    note_made_from(out, now)


def _difference(out: Path, video: Path, before: dict[str, Any], now: dict[str, Any], options: FramesOptions) -> str:
    """How the frames in a folder differ from those that are wanted now."""
    found = f"{counted(len(_times(out)), 'frame')} of"
    if before["video"] != now["video"]:
        other = (_read(out / NOTE) or {}).get("video")
        return f"{found} another video{f' ({other})' if other else ''}, not of {video}"
    wanted = option("fps", options.fps) if options.frames is None else option("frames", options.frames)
    return f"{found} {video}, chosen from {counted(before['frames'], 'interval')}, but {wanted} makes {now['frames']}"


def _fingerprint(video: Path) -> str:
    """The fingerprint of a video: its size, beginning and end, so that gigabytes need not be read."""
    size = video.stat().st_size
    with video.open("rb") as file:
        digest = hashlib.sha256(file.read(_END))
        file.seek(max(0, size - _END))
        digest.update(file.read(_END))
    return f"{size} {digest.hexdigest()[:16]}"


def _read_note(out: Path) -> VideoFrames | None:
    """The result of an earlier run, if it finished and all its frames still exist."""
    note = _read(out / NOTE)
    try:
        result = VideoFrames(**note) if note else None
    except TypeError:
        return None
    if result is None or _times(out) != result.times:
        return None
    return replace(result, folder=str(out.absolute()))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
