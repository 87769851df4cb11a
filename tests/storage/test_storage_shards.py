from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from disk.errors import ArtifactError
from disk.storage import shards
from disk.storage.locks import folder_lock
from disk.storage.names import decode_name, encode_name
from disk.storage.shards import ShardWriter, dataset_keys, open_h5

ATTRIBUTES = {"format": "test 1", "weights": "abc", "options": '{"n": 5, "mode": "nms"}'}
KEYS = ["a", "b", "sub/c", "sub/deep/d", "e"]


def write(folder: Path, keys: list[str] = KEYS, **options: Any) -> ShardWriter:
    """Store all keys that are not done, each in a separate shard by default."""
    writer = ShardWriter(
        folder, "test", ["x.h5", "y.h5"], options.pop("attributes", ATTRIBUTES), **({"shard_bytes": 1} | options)
    )
    done = writer.done()
    for key in keys:
        if key not in done:
            value = np.full(3, KEYS.index(key), np.float32)
            writer.add(key, {"x.h5": value, "y.h5": 10 * value}, {"index": KEYS.index(key)})
    return writer


def contents(folder: Path) -> dict[str, dict[str, tuple]]:
    found = {}
    for name in ("x.h5", "y.h5"):
        with h5py.File(folder / name) as file:
            assert dict(file.attrs) == ATTRIBUTES
            found[name] = {k: (file[k][()].tolist(), int(file[k].attrs["index"])) for k in dataset_keys(file)}
    return found


EXPECTED = {
    "x.h5": {key: ([float(i)] * 3, i) for i, key in enumerate(KEYS)},
    "y.h5": {key: ([10.0 * i] * 3, i) for i, key in enumerate(KEYS)},
}


@pytest.mark.parametrize("shard_bytes", [1, 2500, 1 << 20])
def test_finish_merges_all_and_leaves_nothing_else(tmp_path: Path, shard_bytes: int) -> None:
    write(tmp_path, shard_bytes=shard_bytes).finish()
    assert contents(tmp_path) == EXPECTED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.h5", "y.h5"]


def test_later_runs_add(tmp_path: Path) -> None:
    write(tmp_path, KEYS[:2]).finish()
    writer = write(tmp_path)
    writer.finish()
    assert writer.done() == set(KEYS)
    assert contents(tmp_path) == EXPECTED


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked children")
def test_killed_at_any_moment_then_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL before every single system call that changes the folder, in turn."""
    monkeypatch.setattr(shards.os, "fsync", lambda descriptor: None)  # counts as a moment, but is slow
    moment = 0
    finished = False
    while not finished:
        folder = tmp_path / str(moment)
        folder.mkdir()
        write(folder, KEYS[:1]).finish()  # artifacts of an earlier run
        pid = os.fork()
        if pid == 0:
            kill_at(moment)
            write(folder, shard_bytes=2500).finish()
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        finished = os.WIFEXITED(status)
        assert finished or os.WTERMSIG(status) == signal.SIGKILL
        write(folder).finish()
        assert contents(folder) == EXPECTED
        assert sorted(path.name for path in folder.iterdir()) == ["x.h5", "y.h5"]
        moment += 1
    assert moment > 20


def kill_at(moment: int) -> None:
    """Kill the process before its moment-th call that writes, syncs, renames or removes a file."""
    calls = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal calls
        writes = event == "open" and isinstance(arguments[1], str) and "w" in arguments[1]
        if writes or event in ("os.rename", "os.remove", "shutil.copyfile"):
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1

    sys.addaudithook(watch)
    os.fsync = lambda descriptor: watch("os.rename", ())


def test_a_full_disk_loses_nothing_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, KEYS[:2])
    with monkeypatch.context() as patch:
        patch.setattr(shards.os, "fsync", no_space)
        with pytest.raises(ArtifactError, match=r"No space left on device.*make room"):
            write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".test-000000.h5", ".test-000001.h5"]
    write(tmp_path).finish()
    assert contents(tmp_path) == EXPECTED


def no_space(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits a forked child")
def test_a_merge_that_hits_the_limit_of_a_file(tmp_path: Path) -> None:
    """HDF5's own writes really fail in the middle of the merge; the first artifact fits, the second does not."""

    def big() -> ShardWriter:
        writer = ShardWriter(tmp_path, "test", ["x.h5", "y.h5"], ATTRIBUTES, shard_bytes=1)
        for i in range(3):
            if f"k{i}" not in writer.done():
                writer.add(f"k{i}", {"x.h5": np.full(1, i), "y.h5": np.full(50_000, i)})
        return writer

    big()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
        try:
            big().finish()
        except ArtifactError as error:
            os._exit(0 if "File too large" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert not list(tmp_path.glob("*.tmp"))
    big().finish()
    with h5py.File(tmp_path / "y.h5") as file:
        assert [file[f"k{i}"][-1] for i in range(3)] == [0, 1, 2]


def test_other_options_are_refused_and_named(tmp_path: Path) -> None:
    write(tmp_path, KEYS[:2]).finish()
    write(tmp_path, KEYS[:3])  # leaves a shard
    other = ATTRIBUTES | {"options": '{"n": 6, "mode": "nms"}', "weights": "def"}
    with pytest.raises(ArtifactError, match=r"\(n 5 there, 6 now; weights abc there, def now\).*overwrite=True"):
        write(tmp_path, attributes=other)
    (tmp_path / "x.h5").unlink()
    (tmp_path / "y.h5").unlink()
    with pytest.raises(ArtifactError, match=r"\.test-000000\.h5 was written with other options"):
        write(tmp_path, attributes=other)
    write(tmp_path).finish()
    assert contents(tmp_path) == EXPECTED


def test_overwrite_starts_over(tmp_path: Path) -> None:
    write(tmp_path, KEYS[:3], attributes=ATTRIBUTES | {"weights": "def"}).finish()
    write(tmp_path, KEYS[:4], attributes=ATTRIBUTES | {"weights": "def"})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 3
    assert write(tmp_path, [], overwrite=True).done() == set()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before  # until there is a new result
    write(tmp_path, overwrite=True).finish()
    assert contents(tmp_path) == EXPECTED


def test_files_of_another_program(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = 1
    with pytest.raises(ArtifactError, match=r"x\.h5 was not written by this command"):
        write(tmp_path)
    (tmp_path / "x.h5").write_text("no HDF5")
    with pytest.raises(ArtifactError, match=r"x\.h5 cannot be read as HDF5"):
        write(tmp_path)
    with pytest.raises(ArtifactError, match="no file"):
        open_h5(tmp_path / "missing.h5")
    assert (tmp_path / "x.h5").read_text() == "no HDF5"


def test_an_entry_missing_in_one_file_is_done_again(tmp_path: Path) -> None:
    write(tmp_path).finish()
    with h5py.File(tmp_path / "y.h5", "a") as file:
        del file["sub/c"]
    writer = write(tmp_path)
    writer.finish()
    assert contents(tmp_path) == EXPECTED
    (tmp_path / "y.h5").unlink()
    assert ShardWriter(tmp_path, "test", ["x.h5", "y.h5"], ATTRIBUTES).done() == set()


def test_a_damaged_shard_is_done_again(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / ".test-000001.h5").write_bytes(b"damaged")
    writer = write(tmp_path)
    writer.finish()
    assert contents(tmp_path) == EXPECTED


def test_results_are_saved_every_ten_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(shards, "monotonic", lambda: now)
    writer = ShardWriter(tmp_path, "test", ["x.h5"], ATTRIBUTES)
    counts = []
    for second in (1, 9, 11, 12, 20, 22):
        now = float(second)
        writer.add(f"entry {second}", {"x.h5": np.zeros(1)})
        counts.append(len(list(tmp_path.glob(".test-*.h5"))))
    assert counts == [0, 0, 1, 1, 1, 2]


def test_add_wants_an_array_for_each_file(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, "test", ["x.h5", "y.h5"], ATTRIBUTES)
    with pytest.raises(ValueError, match="expected arrays"):
        writer.add("a", {"x.h5": np.zeros(1)})


def test_lock_refuses_a_second_run(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    with folder_lock(folder), pytest.raises(ArtifactError, match="in use by another run"), folder_lock(folder):
        pass
    with folder_lock(folder):
        pass


def test_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ArtifactError, match=r"cannot write in .*file"), folder_lock(folder):
            pass

    def read_only(*arguments: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", read_only)  # creates the lock file; root may write anywhere
    with pytest.raises(ArtifactError, match="Permission denied"), folder_lock(tmp_path):
        pass


def test_names_of_pairs_are_flat() -> None:
    assert encode_name("rome/deep/1") == "rome|deep|1"
    assert decode_name(encode_name("rome/deep/1")) == "rome/deep/1"


def test_merging_is_refused_before_it_starts_if_the_disk_has_too_little_space(tmp_path, monkeypatch):
    writer = ShardWriter(tmp_path, "things", ["a.h5"], {"format": "test"})
    writer.add("one", {"a.h5": np.arange(4)})
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(ArtifactError, match="No space left"):
        writer.finish()
    monkeypatch.undo()
    again = ShardWriter(tmp_path, "things", ["a.h5"], {"format": "test"})
    again.finish()
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["one"][:].tolist() == [0, 1, 2, 3]
