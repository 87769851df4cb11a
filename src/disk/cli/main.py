"""The `disk` command: finds and runs the subcommand, reports a user's error in one line."""

from __future__ import annotations

import importlib
import io
import os
import signal
import sys
import threading
from typing import Any

# command -> (module, description); modules are imported only when their command runs
COMMANDS = {
    "frames": ("frames", "extract sharp frames of a video as photos"),
    "detect": ("detect", "find keypoints and descriptors in a folder of images"),
    "match": ("match", "match the features of pairs of images"),
    "view": ("view", "show the page of a model, or draw keypoints or matches"),
    "export": ("export", "export features and matches to COLMAP, IMW or hloc"),
    "verify": ("verify", "verify all matched pairs geometrically"),
    "map": ("map", "map verified pairs into a sparse 3D model"),
    "reconstruct": ("reconstruct", "reconstruct a folder of photos or a video as a sparse 3D model"),
    "triangulate": ("triangulate", "triangulate points for known poses"),
    "localize": ("localize", "localize photos in an existing model"),
    "undistort": ("undistort", "undistort images and write a pinhole model, for splatting"),
    "demo": ("demo", "run the whole pipeline on photographs with ground truth"),
    "train": ("train", "train the network"),
    "auc": ("auc", "choose the best checkpoint from training logs"),
    "dataset": ("dataset", "render, import, merge, check and download training data"),
    "evaluate": ("evaluate", "evaluate features: pose, homography, imw, reconstruction"),
    "weights": ("weights", "list, fetch, convert and export checkpoints"),
    "doctor": ("doctor", "check what works on this machine, and what to install"),
}
# commands that resume by default
RESUMING = ("frames", "detect", "match", "verify", "map", "reconstruct", "triangulate", "localize", "undistort")


def main(argv: list[str] | None = None) -> int:
    """Run one command; return the exit code: 0 done, 1 partly done, 2 user error, 130 interrupted, 143 terminated."""
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # the reader (such as `| head`) has closed the pipe; keep Python from complaining again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: list[str]) -> int:
    from disk.errors import DiskError, explain_missing
    from disk.options import spelt_as_flags
    from disk.progress import printable, setup
    from disk.storage.names import did_you_mean

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # Windows consoles cannot show all characters in file names
            stream.reconfigure(errors="backslashreplace")
    quiet = "--quiet" in arguments
    if quiet:
        arguments.remove("--quiet")
    setup(quiet)
    if not arguments or arguments[0] in ("-h", "--help"):
        from disk.cli.wrapping import wrapped

        print(wrapped(_usage()))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from disk.versions import describe

        print(describe())
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        hint = did_you_mean(name.lower(), (*COMMANDS, "--help", "--version", "--quiet"))
        choices = ", ".join(COMMANDS)
        print(f"disk: no command {name!r}; choose from {choices}{hint}", file=sys.stderr)
        return 2
    before = _terminate_like_ctrl_c()
    try:
        with spelt_as_flags():
            module = importlib.import_module(f"disk.cli.{COMMANDS[name][0]}")
            if arguments[1:2] and arguments[1] in getattr(module, "COMMANDS", ()):
                name = f"{name} {arguments[1]}"
            return int(module.main(arguments[1:]) or 0)
    except DiskError as error:
        print(f"disk {name}: {printable(error)}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        explained = explain_missing(error)
        if explained is error:
            raise
        print(f"disk {name}: {explained}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        how = "; run the same command again to resume" if name in RESUMING else ""
        terminated = isinstance(error, _Terminated)
        print(f"disk {name}: {'terminated' if terminated else 'interrupted'}{how}", file=sys.stderr)
        return 143 if terminated else 130
    except BrokenPipeError:
        raise
    except (OSError, MemoryError) as error:
        # `photos/a.jpg: File exists` in place of `[Errno 17] File exists: 'photos/a.jpg'`
        file = getattr(error, "filename", None)
        what = f"{file}: {getattr(error, 'strerror', error)}" if file else str(error)
        print(f"disk {name}: {printable(what) or 'out of memory'}", file=sys.stderr)
        return 2
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


class _Terminated(KeyboardInterrupt):
    """SIGTERM; handled like Ctrl-C, so finished results are kept."""


def _terminate_like_ctrl_c() -> Any:
    """Make SIGTERM, which batch systems and containers send, act like Ctrl-C; return the previous handler."""

    def end(number: int, frame: Any) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        return None  # only the main thread may handle signals
    return signal.signal(signal.SIGTERM, end)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = ["usage: disk COMMAND ... [--quiet]", "", "DISK local features, from photos to a 3D model.", ""]
    lines += [f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items()]
    lines += [
        "",
        "example:  disk reconstruct photos/ model/",
        "`disk COMMAND --help` explains each; --version prints the versions of disk, torch, CUDA and pycolmap.",
    ]
    return "\n".join(lines)
