"""`disk frames`: extracting sharp frames of a video as photos."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from disk.cli.app import AsJson, run, show_result
from disk.pipeline import frames as stage
from disk.pipeline.frames import FramesOptions
from disk.progress import counted


def frames(
    video: Positional[Path],
    out: Positional[Path],
    options: FramesOptions = FramesOptions(),
    json: AsJson = False,
) -> None:
    """Write sharp frames of a video, evenly spread, as a folder of photos.

    The frames are upright and named by time: frame-000012500.jpg is at 12.5 s. OUT/frames.json also lists the times.
    `disk reconstruct VIDEO OUT` includes this step. After an interruption the same command resumes.

    Args:
        video: Any file that FFmpeg can read.
        out: Folder for the frames, created if missing; must not contain other files.
        options: How many frames to write.
    """
    show_result(
        lambda: stage.frames(video, out, options),
        lambda done: print(
            f"{counted(len(done.times), 'frame')} of {done.width} x {done.height} pixels from {done.seconds:.1f} s of "
            f"video: {out}"
        ),
        json,
    )


def main(argv: list[str]) -> int:
    run(frames, argv, "frames", "disk frames walk.mp4 frames/ --fps 3")
    return 0
