"""Videos written with PyAV: a camera that pans over a textured wall, sharp or blurred."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from scipy.ndimage import uniform_filter1d

from textured import textured_photo

UPRIGHT = (1, 0, 0, 1)


def panning_frames(
    count: int, sharp: Sequence[int] | None = None, size: tuple[int, int] = (160, 96)
) -> list[np.ndarray]:
    """RGB frames of (width, height); all but the sharp ones are blurred along x, as by fast camera motion."""
    width, height = size
    wall = textured_photo(height, width + 2 * count)
    frames = [wall[:, 2 * i : 2 * i + width] for i in range(count)]
    return [
        frame if sharp is None or i in sharp else uniform_filter1d(frame, 9, axis=1) for i, frame in enumerate(frames)
    ]


def write_video(
    path: Path,
    frames: Sequence[np.ndarray],
    stamps: Sequence[int] | None = None,
    rate: int = 30,
    matrix: tuple[int, int, int, int] = UPRIGHT,
    aspect: Fraction | None = None,
    quality: int = 18,
) -> Path:
    """H.264 in the container of the suffix. stamps: when frames are shown, in ms, if not at the rate.

    matrix: (a, b, c, d) of an MP4's display matrix: the stored pixel (x, y) is shown at (a x + c y, b x + d y).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": str(quality)})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 10
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if stamps is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts = i if stamps is None else stamps[i]
            frame.time_base = Fraction(1, rate) if stamps is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if matrix != UPRIGHT:
        a, b, c, d = (value << 16 for value in matrix)
        content = bytearray(path.read_bytes())
        place = content.index(b"tkhd") + 44  # where ISO 14496-12 puts the matrix of a track
        content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        path.write_bytes(content)
    return path


def write_sound(path: Path) -> Path:
    """A second of silence in a file that could hold a video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        frame.rate, frame.pts = 16000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
