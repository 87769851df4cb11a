"""Malicious HDF5 files: they expand, lead out of the file, never end, or hold unexpected types."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from fuzz_isolation import refused
from fuzz_seeds import features_of, make_artifacts

from disk.cli.main import main
from disk.datasets.files import read_depth
from disk.errors import ArtifactError
from disk.storage.artifacts import KEYPOINTS, MATCHES, read_features, read_matches
from disk.storage.layouts import HlocFeatures

linux = pytest.mark.skipif(sys.platform != "linux", reason="bounds memory by way of /proc")
HUGE = 10**12


def read_first(folder: Path) -> None:
    with read_features(folder) as store:
        store[store.names[0]]


@linux
@pytest.mark.parametrize("shape", [(HUGE, 2), (3 * 10**8, 2)], ids=["beyond memory", "gigabytes"])
def test_h5_that_expands(tmp_path: Path, shape: tuple[int, int]) -> None:
    artifacts = make_artifacts(tmp_path / "artifacts")
    with h5py.File(artifacts / KEYPOINTS, "a") as file:
        del file["a"]
        file.create_dataset("a", shape, np.float32, chunks=(1 << 20, 2), compression="gzip")
    assert "damaged or malicious" in refused(read_first, artifacts)
    with h5py.File(tmp_path / "depth.h5", "w") as file:
        file.create_dataset("depth", (10**6, 10**6), np.float32, chunks=(1000, 1000), compression="gzip")
    assert "damaged or malicious" in refused(read_depth, tmp_path / "depth.h5")


def test_zeros_that_compress_well_are_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "depth.h5", "w") as file:
        file.create_dataset("depth", data=np.zeros((2000, 2000), np.float32), compression="gzip")
    assert not read_depth(tmp_path / "depth.h5").any()


def test_h5_with_an_unavailable_filter(tmp_path: Path) -> None:
    artifacts = make_artifacts(tmp_path / "artifacts")
    with h5py.File(artifacts / KEYPOINTS, "a") as file:
        del file["a"]
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_chunk((5, 2))
        create.set_filter(32099, h5py.h5z.FLAG_OPTIONAL, (1,))
        h5py.h5d.create(file.id, b"a", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((5, 2)), create)
        file["a"].id.write_direct_chunk((0, 0), bytes(40))
    with pytest.raises(ArtifactError, match=r"keypoints\.h5: /a is compressed by HDF5.s filter 32099"):
        read_first(artifacts)


@pytest.mark.parametrize("kind", ["soft", "external", "raw", "virtual"])
def test_h5_that_leads_out_of_the_file(tmp_path: Path, kind: str) -> None:
    artifacts = make_artifacts(tmp_path / "artifacts")
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["secret"] = features_of(0)[KEYPOINTS]
    (tmp_path / "secret").write_bytes(bytes(40))
    with h5py.File(artifacts / "scores.h5", "a") as file:
        del file["a"]
        if kind == "soft":
            file["a"] = h5py.SoftLink("/sub/b")
        elif kind == "external":
            file["a"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "secret")
        elif kind == "raw":
            file.create_dataset("a", (5,), np.float32, external=[(str(tmp_path / "secret"), 0, 20)])
        else:
            layout = h5py.VirtualLayout((5,), np.float32)
            layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "secret", (5, 2))[:, 0]
            file.create_virtual_dataset("a", layout)
    with pytest.raises(ArtifactError, match=r"is a link, which is not followed|lies in other files"):
        read_first(artifacts)


@linux
def test_h5_with_a_heap_that_never_ends(tmp_path: Path) -> None:
    artifacts = make_artifacts(tmp_path / "artifacts")
    content = bytearray((artifacts / KEYPOINTS).read_bytes())
    start = content.find(b"GCOL\1")
    assert start > 0  # where texts are stored
    content[start + 24 : start + 32] = struct.pack("<q", -16)
    (artifacts / KEYPOINTS).write_bytes(content)
    assert "heap of strings" in refused(read_first, artifacts)


@pytest.mark.parametrize("value", ["text", ["a", "b"], np.zeros(3, [("x", int)]), b"x"], ids=str)
def test_h5_of_unexpected_types(tmp_path: Path, value: Any) -> None:
    artifacts = make_artifacts(tmp_path / "artifacts")
    with h5py.File(artifacts / KEYPOINTS, "a") as file:
        del file["a"]
        file["a"] = value
    with pytest.raises(ArtifactError, match=r"keypoints\.h5"):
        read_first(artifacts)
    with h5py.File(artifacts / MATCHES, "a") as file:
        file["a/c"] = value
    with read_matches(artifacts) as matches, pytest.raises(ArtifactError, match=r"matches\.h5"):
        matches["a", "c"]
    with h5py.File(tmp_path / "hloc.h5", "w") as file:
        file["a.jpg/keypoints"] = value
    with HlocFeatures(tmp_path / "hloc.h5") as store, pytest.raises(ArtifactError, match="no keypoints"):
        store["a"]


@pytest.mark.parametrize(("key", "value"), [("image_size", "large"), ("image_size", [1, -1]), ("orientation", "up")])
def test_h5_with_attributes_of_unexpected_types(tmp_path: Path, key: str, value: Any) -> None:
    artifacts = make_artifacts(tmp_path / "artifacts")
    with h5py.File(artifacts / KEYPOINTS, "a") as file:
        file["a"].attrs[key] = value
    with read_features(artifacts) as store, pytest.raises(ArtifactError, match=f"'a' has .*{key}"):
        store.image_size("a"), store.orientation("a")


@pytest.mark.parametrize("options", ["no json", "[1]", "[" * 50_000])
def test_h5_with_unexpected_options(tmp_path: Path, options: str, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts = make_artifacts(tmp_path / "artifacts")
    with h5py.File(artifacts / KEYPOINTS, "a") as file:
        file.attrs["options"] = options
    assert main(["match", str(artifacts), "--device", "cpu", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "keypoints.h5 has options that DISK did not write" in error
