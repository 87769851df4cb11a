"""Places with faults: small disks, read-only folders, and a library that makes system calls fail."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path


class Faults:
    """The library of faults.c, compiled; with it preloaded, `environment` makes a run meet a fault."""

    def __init__(self, scratch: Path) -> None:
        self.library, self._counter = scratch / "faults.so", scratch / "operations"
        source = Path(__file__).with_name("faults.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", self.library, source, "-ldl"], check=True)

    def environment(self, folder: Path, **settings: int | str) -> dict[str, str]:
        """What to set in the environment; the count of operations starts anew."""
        self._counter.write_bytes(bytes(8))
        named = {f"FAULTS_{name.upper()}": str(value) for name, value in settings.items()}
        under = str(folder.resolve()) + "/"
        return {"FAULTS_UNDER": under, "FAULTS_COUNTER": str(self._counter), **named}

    def operations(self) -> int:
        """How many operations there were below the folder."""
        return int.from_bytes(self._counter.read_bytes(), "little")


def why_no_mounts() -> str | None:
    """Why file systems cannot be mounted here; None where they can."""
    if os.geteuid() != 0:
        return "not root"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with mounted(Path(folder), 1 << 20):
                return None
        except (OSError, subprocess.CalledProcessError) as error:
            return f"mount: {error}"


@contextlib.contextmanager
def mounted(folder: Path, size: int) -> Iterator[None]:
    """A file system in memory of so many bytes on a folder."""
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def why_no_network() -> str | None:
    """Why `network` cannot be had here; None where it can."""
    if reason := why_no_mounts():
        return reason
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    done = subprocess.run([sys.executable, "-c", "import fuse"], check=False, capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


@contextlib.contextmanager
def network(source: Path, folder: Path, kind: str) -> Iterator[None]:
    """The file system of network.py on a folder; what is written there is in `source`."""
    process = subprocess.Popen([sys.executable, Path(__file__).with_name("network.py"), source, folder, kind])
    try:
        while not os.path.ismount(folder):
            if process.poll() is not None:
                raise OSError("network.py has ended")
            time.sleep(0.1)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
        process.wait(60)


def make_read_only(folder: Path) -> None:
    """Nothing can be written on a mounted file system any more, by root neither."""
    _mount("-o", "remount,ro", folder)


def make_writable(folder: Path) -> None:
    """Undo `make_read_only`."""
    _mount("-o", "remount,rw", folder)


def fill(folder: Path, free: int) -> Path:
    """A file that leaves so many bytes of the file system free."""
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(folder).free - free))
    return ballast


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
