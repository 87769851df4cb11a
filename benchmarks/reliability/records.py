"""What a command left in its folder, as records that can be counted and compared."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

DESCRIPTORS = "descriptors.h5"
Record = tuple[str, str]  # what it is about, and a digest of all that it says
_TABLES = ("cameras", "images", "keypoints", "matches", "two_view_geometries")
# of summary.json: how long it took, where, and the numbers of the model
_OF_ONE_RUN = {"seconds", "photos", "points", "track_length", "reprojection_error", "models"}


@dataclass(frozen=True)
class Differences:
    """Records of a resumed run against those of an undisturbed one.

    lost: missing; doubled: there more often; wrong: with another content, or unknown to the undisturbed run;
    leftovers: names of files that should have gone.
    """

    lost: list[str]
    doubled: list[str]
    wrong: list[str]
    leftovers: list[str]

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled or self.wrong or self.leftovers)


def compare(
    folder: Path,
    reference: Path,
    read: Callable[[Path], Iterable[Record]],
    others: Callable[[Path, Path], list[str]] = lambda folder, reference: [],
) -> Differences:
    """The differences of a folder to that of an undisturbed run; others: what else is wrong in it."""
    found, expected = (Counter(read(place)) for place in (folder, reference))
    names, known = (Counter(name for name, _ in records.elements()) for records in (found, expected))
    return Differences(
        lost=sorted((known - names).elements()),
        doubled=sorted(name for name in (names - known).elements() if name in known),
        wrong=sorted(
            {name for name, _ in found - expected if names[name] <= known[name]}
            | (names.keys() - known)
            | set(others(folder, reference))
        ),
        leftovers=sorted(files(folder) - files(reference)),
    )


def files(folder: Path) -> set[str]:
    """The files below a folder; TensorBoard's, of which each run writes one, count as one."""
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {
        "events" if name.name.startswith("events.out.tfevents") else name.as_posix()
        for name in names
        if not name.name.endswith((".lock", "-shm", "-wal"))
    }


def of_artifacts(folder: Path) -> Iterator[Record]:
    """Every dataset of every HDF5 file with its attributes; photos.json. Descriptors without their values, which
    `descriptors_are_other` compares: of two libraries the one that is faster at the moment multiplies.
    """
    for path in sorted(folder.glob("[!.]*.h5")):
        with h5py.File(path) as file:
            yield path.name, _digest(sorted(file.attrs.items()))
            datasets: list[h5py.Dataset] = []
            file.visititems(
                lambda _, item, found=datasets: found.append(item) if isinstance(item, h5py.Dataset) else None
            )
            for item in datasets:
                value = item[:0] if path.name == DESCRIPTORS else item[()]
                attributes = [(key, np.asarray(entry).tolist()) for key, entry in sorted(item.attrs.items())]
                yield f"{path.name}{item.name}", _digest(item.dtype, item.shape, value.tobytes(), attributes)
    for path in folder.glob("photos.json"):
        for name, photo in json.loads(path.read_text(encoding="utf-8")).items():
            yield f"photos.json/{name}", _digest(photo)


def descriptors_are_other(folder: Path, reference: Path) -> list[str]:
    """Descriptors that are further off than rounding, 1e-5 of their length."""
    wrong = []
    for path in folder.rglob(DESCRIPTORS):
        with h5py.File(path) as file, h5py.File(reference / path.relative_to(folder)) as expected:
            for name in file:
                same_shape = name in expected and file[name].shape == expected[name].shape
                if not same_shape or np.abs(file[name][()] - expected[name][()]).max(initial=0) > 1e-5:
                    wrong.append(f"{DESCRIPTORS}/{name}")
    return wrong


def of_database(path: Path) -> Iterator[Record]:
    """Every row of a COLMAP database, by its first column."""
    with closing(sqlite3.connect(path)) as database:
        yield "integrity", str(database.execute("PRAGMA integrity_check").fetchall())
        for table in _TABLES:
            for row in database.execute(f"SELECT * FROM {table}"):
                yield f"database.db/{table}/{row[0]}", _digest(row)


def of_verification(folder: Path) -> Iterator[Record]:
    """Of a folder with artifacts/ and database.db."""
    yield from of_artifacts(folder / "artifacts")
    yield from of_database(folder / "database.db")


def of_model(folder: Path) -> Iterator[Record]:
    """Of the output of `disk reconstruct`: all of the above, the images of each model, the summary.

    The model itself is compared by `model_is_other`: threads sum in any order, so its numbers are the same up to
    rounding, and up to where its origin is.
    """
    yield from of_verification(folder)
    for number, model in _models(folder):
        for image in model.images.values():
            yield f"sparse/{number}/{image.name}", "registered"
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    for key, value in summary.items():
        if key not in _OF_ONE_RUN:
            yield f"summary.json/{key}", _digest(value)


def model_is_other(folder: Path, reference: Path) -> list[str]:
    """Models with over 2 % more or fewer points, or with a camera over 1 % of their extent off, best aligned; and
    descriptors.
    """
    wrong = descriptors_are_other(folder, reference)
    expected = dict(_models(reference))
    for number, model in _models(folder):
        points, other = model.num_points3D(), expected[number].num_points3D() if number in expected else 0
        if abs(points - other) > 0.02 * other or _off(model, expected[number]) > 0.01:
            wrong.append(f"sparse/{number}")
    return wrong


def _off(model: Any, expected: Any) -> float:
    """The largest distance of cameras in two models after the best similarity (Umeyama 1991), over their extent."""
    by_name = {image.name: image.projection_center() for image in model.images.values()}
    both = [(by_name[i.name], i.projection_center()) for i in expected.images.values() if i.name in by_name]
    found, wanted = (np.array(centres) - np.mean(centres, axis=0) for centres in zip(*both, strict=True))
    u, scale, vt = np.linalg.svd(wanted.T @ found)
    flip = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    aligned = np.trace(np.diag(scale) @ flip) / (found**2).sum() * found @ (u @ flip @ vt).T
    return float(np.linalg.norm(aligned - wanted, axis=1).max() / np.linalg.norm(wanted, axis=1).max())


def _models(folder: Path) -> Iterator[tuple[str, Any]]:
    import pycolmap

    for path in sorted((folder / "sparse").glob("[0-9]*")):
        yield path.name, pycolmap.Reconstruction(path)


def of_training(folder: Path) -> Iterator[Record]:
    """Every tensor and number of every checkpoint, bit by bit; every record of log.jsonl and of TensorBoard."""
    from disk.training.logs import read_scalars

    for path in sorted(folder.glob("*.pth")):
        for key, value in _leaves(torch.load(path, weights_only=True), path.name):
            if not key.endswith(("/save_dir", "/resume")):
                yield key, value
    for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        kind = "train" if "train/lr" in entry else "epoch" if "epoch" in entry else "pair"
        yield f"log.jsonl/{kind}/{entry['step']}", _digest(entry)
    for tag, values in read_scalars(folder).items():
        for step, value in values:
            yield f"events/{tag}/{step}", repr(value)


def _leaves(value: Any, name: str) -> Iterator[Record]:
    if isinstance(value, dict | list | tuple):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, entry in entries:
            yield from _leaves(entry, f"{name}/{key}")
    elif isinstance(value, torch.Tensor):
        yield name, _digest(value.dtype, value.shape, value.numpy().tobytes())
    else:
        yield name, repr(value)


def _digest(*values: Any) -> str:
    return hashlib.sha256(b"|".join(v if isinstance(v, bytes) else repr(v).encode() for v in values)).hexdigest()[:16]
