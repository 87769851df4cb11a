"""Fixtures that several rooms use."""

from __future__ import annotations

import interpreted  # isort: skip  # noqa: F401  # before anything imports triton
import pretend_cuda as pretend  # isort: skip  # before the first backward pass

import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import medium
from disk.progress import log
from textured import textured_photo

if find_spec("hypothesis"):  # a machine that only runs the tests of a GPU may lack it
    from hypothesis import HealthCheck, settings

    # CI machines are busy
    settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of medium.txt; tests marked `gpu` run on a pretended device where there is none."""
    listed, here = medium.listed(), Path(__file__).parent
    for item in items:
        name = f"{item.path.relative_to(here).as_posix()}::{getattr(item, 'originalname', item.name)}"
        if name in listed:
            item.add_marker("medium")
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu") and isinstance(item, pytest.Function):
                item.fixturenames.insert(0, "pretend_cuda")


@pytest.fixture
def pretend_cuda() -> Iterator[pretend.Machine]:
    """This machine has two CUDA devices, computed on the CPU."""
    if not pretend.POSSIBLE:
        pytest.skip("no CUDA GPU can be pretended here")
    with pretend.pretended() as machine:
        yield machine


@pytest.fixture(scope="session", autouse=True)
def _cache_folder_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep measurements and downloads out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISK_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _temporary_files_of_the_tests() -> Iterator[None]:
    """Remove what killed processes and the browser leave; pytest's own folders are too deep for Ray's sockets."""
    with (
        tempfile.TemporaryDirectory(prefix="disk-", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(autouse=True)
def _log_as_at_the_start() -> None:
    """Undo the changes to the log by earlier tests, and by fixtures of modules, which come before this one."""
    log.handlers.clear()
    log.propagate = True
    log.setLevel("NOTSET")


@pytest.fixture(autouse=True)
def _random_numbers_of_the_test_alone() -> None:
    torch.manual_seed(0)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads that torch uses, for the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def photo() -> np.ndarray:
    """A textured image, uint8 (96, 128, 3)."""
    return textured_photo(96, 128)


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """A folder of textured photos of two sizes, one of them in a sub-folder: a, b, c, sub/d."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for seed, (name, height, width) in enumerate(
        [("a.jpg", 64, 96), ("b.PNG", 64, 96), ("c.jpg", 80, 64), ("sub/d.jpg", 64, 96)]
    ):
        Image.fromarray(textured_photo(height, width, seed)).save(folder / name, quality=95)
    return folder
