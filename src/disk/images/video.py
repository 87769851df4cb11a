"""Decoding videos with PyAV: the times of frames, their sharpness, and their pixels upright.

A truncated video is read up to where it ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from disk.errors import VideoError, require
from disk.images.listing import VIDEO_EXTENSIONS
from disk.images.orientation import AS_STORED, to_upright, upright_from_stored
from disk.options import AnyPath
from disk.progress import log
from disk.shapes import Float, UInt8

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

# FFmpeg's demuxers; others read playlists that name further files and URLs, or render text as a picture
_FORMATS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,gxf,h264,hevc,obu,m4v,ivf,dv,gif,nut,rm,wtv"
_LONG_SIDE = 960  # pixels; sharpness is measured at this size
_USUAL_RATE = 25.0  # frames per second, if the stream does not say
_ENDS_EARLY, _ENDS_EARLY_SHARE = 1.0, 0.05  # a video that lacks more, in seconds and as a share, counts as cut short


@dataclass(frozen=True)
class Timeline:
    """When the frames of a video are shown.

    start: timestamp of the first frame, in seconds
    seconds: from there to the end of the last readable frame
    declared: the same according to the header; None if it does not say
    rate: frames per second, to time frames by counting if timestamps are missing or run backwards; otherwise None
    recorded: when the camera says it recorded the video
    """

    start: float
    seconds: float
    declared: float | None
    rate: float | None
    recorded: str

    @property
    def is_cut_short(self) -> bool:
        """Whether the video is shorter than its header says."""
        missing = 0.0 if self.declared is None else self.declared - self.seconds
        return missing > max(_ENDS_EARLY, _ENDS_EARLY_SHARE * (self.declared or 0))


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame before colour conversion.

    time: seconds since the first frame
    """

    time: float
    _decoded: VideoFrame
    _shape: tuple[int, int]
    _converter: VideoReformatter

    def sharpness(self) -> float:
        """Sharpness, comparable within one video: variance of the luma's second differences at reduced size.

        It is the geometric mean of the variances along x and y. A turning camera blurs only one direction, and a scene
        may have little detail in one direction: the product reacts to either.
        """
        width, height = self._shape
        shrink = min(1.0, _LONG_SIDE / max(width, height))
        grey = self._converted(max(1, round(width * shrink)), max(1, round(height * shrink)), "gray").astype(np.float32)
        along_y, along_x = (np.diff(grey, 2, axis=axis) for axis in (0, 1))
        # + 1, so that the score still rises with one direction if the other is flat
        return float(np.sqrt((along_x.var() + 1) * (along_y.var() + 1))) if along_x.size and along_y.size else 0.0

    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """RGB, upright, with square pixels."""
        return to_upright(self._converted(*self._shape, "rgb24"), _orientation(self._decoded))

    def _converted(self, width: int, height: int, kind: str) -> np.ndarray:
        frame = self._converter.reformat(self._decoded, width, height, kind, interpolation="AREA")
        return np.asarray(frame.to_ndarray())


@dataclass
class Damage:
    """What decoding could not use.

    packets: damaged packets
    other_sizes: frames whose size differs from that of the first frame
    """

    packets: int = 0
    other_sizes: int = 0


def is_video(path: AnyPath) -> bool:
    """Whether a path has the extension of a video."""
    return Path(path).suffix.lower() in VIDEO_EXTENSIONS and not Path(path).is_dir()


def read_timeline(path: Path) -> Timeline:
    """Read when frames are shown from the packets, without decoding them, in constant memory.

    Raises VideoError if the file is missing, not a video or has no pictures, and MissingExtraError without PyAV.
    """
    with _opened(path) as (container, stream):
        base = float(stream.time_base or 1)
        usual = float(stream.average_rate or stream.guessed_rate or _USUAL_RATE)
        count, length, in_order = 0, 0, True
        first = last = decoded = None
        for packet in _packets(container, stream, Damage()):
            if not packet.size or packet.is_discard:
                continue
            count += 1
            if packet.pts is None:
                in_order = False
                continue
            if packet.dts is not None:
                in_order = in_order and (decoded is None or packet.dts >= decoded)
                decoded = packet.dts
            first = packet.pts if first is None else min(first, packet.pts)
            if last is None or packet.pts >= last:
                last, length = packet.pts, packet.duration or 0
        if not count:
            raise VideoError(f"{path} has no frame that can be read; is it damaged?")
        declared, recorded = _declared(container, stream), container.metadata.get("creation_time", "")
    if first is None or last is None or not in_order:
        return Timeline(0.0, count / usual, declared, usual, recorded)
    step = length * base or ((last - first) * base / (count - 1) if count > 1 and last > first else 1 / usual)
    return Timeline(first * base, (last - first) * base + step, declared, None, recorded)


def decode_frames(path: Path, timeline: Timeline, begin: float, damage: Damage) -> Iterator[Frame]:
    """Decode the frames shown at `begin` or later, in order, holding one at a time.

    begin: seconds since the first frame
    damage: updated with what could not be used

    Raises what `read_timeline` raises.
    """
    from av import FFmpegError
    from av.video.reformatter import VideoReformatter

    converter = VideoReformatter()
    with _opened(path) as (container, stream):
        size = stream.codec_context.width, stream.codec_context.height
        base = float(stream.time_base or 1)
        if begin > 0 and timeline.rate is None:
            with contextlib.suppress(FFmpegError):  # then decode from the beginning
                container.seek(int((timeline.start + begin) / base), stream=stream)
        number, warned = 0, False
        for decoded in _decoded(container, stream, damage):
            if timeline.rate is not None:
                time = number / timeline.rate
            elif decoded.pts is None:
                continue
            else:
                time = max(0.0, decoded.pts * base - timeline.start)
            number += 1
            if time < begin:
                continue
            if (decoded.width, decoded.height) != size:
                damage.other_sizes += 1
                continue
            if decoded.interlaced_frame and not warned:
                warned = True
                log.warning("%s is interlaced: each frame mixes two instants; deinterlace it for a good model", path)
            yield Frame(time, decoded, _square(size, stream), converter)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    require("av")
    import av
    from av.stream import Disposition

    if not path.is_file():
        raise VideoError(f"{path} is a folder, not a video" if path.is_dir() else f"no file {path}")
    if not path.stat().st_size:
        raise VideoError(f"{path} is empty")
    # PyAV 19 has no such option
    kwargs: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    try:  # by its absolute path, so that FFmpeg never takes a name for a URL
        container = av.open(str(path.resolve()), options={"format_whitelist": _FORMATS}, **kwargs)
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or error
        raise VideoError(f"{path} is not a video that can be read, or is truncated or damaged ({reason})") from None
    with container:
        # cover art is a video stream as well
        streams = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
        if not streams:
            raise VideoError(f"{path} has no pictures{', only sound' if container.streams.audio else ''}")
        stream = next((one for one in streams if one.disposition & Disposition.default), streams[0])
        if stream.codec_context is None:
            raise VideoError(f"{path}: this FFmpeg does not know its codec; convert it to H.264")
        if len(streams) > 1:
            log.info("%s has %d video streams; using number %d", path, len(streams), stream.index)
        stream.thread_type = "AUTO"
        yield container, stream


def _packets(container: InputContainer, stream: VideoStream, damage: Damage) -> Iterator[Packet]:
    """The packets up to the end or the first unreadable one; the last packet at the end is empty."""
    from av import FFmpegError

    try:
        yield from container.demux(stream)
    except FFmpegError:
        damage.packets += 1


def _decoded(container: InputContainer, stream: VideoStream, damage: Damage) -> Iterator[VideoFrame]:
    from av import FFmpegError

    for packet in _packets(container, stream, damage):
        try:
            frames = stream.decode(packet)
        except FFmpegError:
            damage.packets += 1
            continue
        for frame in frames:
            if frame.is_corrupt:
                damage.packets += 1
            else:
                yield frame


def _declared(container: InputContainer, stream: VideoStream) -> float | None:
    """Duration of the video in seconds according to the header; None if it does not say."""
    if stream.duration:
        return float(stream.duration * (stream.time_base or 0))
    if stream.metadata.get("DURATION"):  # Matroska's: 00:00:10.016000000
        with contextlib.suppress(ValueError):
            hours, minutes, seconds = stream.metadata["DURATION"].split(":")
            return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    if container.duration and len(container.streams) == 1:  # with sound, it may be that of the sound
        return container.duration / 1e6
    return None


def _square(size: tuple[int, int], stream: VideoStream) -> tuple[int, int]:
    """(width, height) in square pixels, as players show it."""
    ratio = float(stream.sample_aspect_ratio or 1)
    width, height = size
    return (max(1, round(width * ratio)), height) if ratio > 0 else size


def _orientation(frame: VideoFrame) -> int:
    """The EXIF orientation that makes a frame upright by its display matrix; the nearest one if that is oblique."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return AS_STORED
    a, b, _, c, d, *_ = np.frombuffer(matrix, np.int32).astype(float)  # type: ignore[call-overload]
    shown_from_stored: Float[np.ndarray, "2 2"] = np.array([[a, c], [b, d]])
    fits = {
        orientation: float((upright_from_stored(orientation, (1, 1))[:2, :2] * shown_from_stored).sum())
        for orientation in range(1, 9)
    }
    return max(fits, key=lambda orientation: fits[orientation])
