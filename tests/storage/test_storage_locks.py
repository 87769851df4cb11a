"""Locks on file systems without lock support."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest

from disk.errors import ArtifactError
from disk.storage.locks import file_lock, folder_lock

NONE = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP]
KILLED = """
import fcntl, os, pathlib, signal, sys
def none(*arguments):
    raise OSError(int(sys.argv[2]), "no locks")
fcntl.flock = none
from disk.storage.locks import folder_lock
with folder_lock(pathlib.Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(params=NONE, ids=lambda number: errno.errorcode[number])
def no_locks(request, monkeypatch):
    def none(*arguments):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", none)
    return request.param


@pytest.mark.usefixtures("no_locks")
@pytest.mark.parametrize("lock", [folder_lock, file_lock])
def test_a_second_run_is_refused_without_file_system_locks(lock, tmp_path):
    place = tmp_path / "place"
    (tmp_path / ".place.lock").touch()  # from a run with locks
    place.mkdir()
    (place / ".lock").touch()
    for _ in range(2):  # held, then free again
        message = r"in use by another run.*on any machine, remove .*lock"
        with lock(place), pytest.raises(ArtifactError, match=message), lock(place):
            pass


def test_a_killed_run_does_not_block_the_next(no_locks, tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, str(no_locks)], check=False)
    assert done.returncode == -9
    with folder_lock(tmp_path):
        pass


def test_other_lock_errors_are_reported(tmp_path, monkeypatch):
    def fails(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.raises(ArtifactError, match="Input/output error"), folder_lock(tmp_path):
        pass
