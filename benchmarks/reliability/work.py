"""The commands that are disturbed, on real photos."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from records import Record, descriptors_are_other, model_is_other, of_artifacts, of_model, of_training, of_verification
from runs import run

_DETECT = ["--max-size", "320", "--n", "256", "--quiet"]


@dataclass(frozen=True)
class Work:
    """One command. before: a folder with what it starts from; arguments: the command for a copy of that folder."""

    name: str
    before: Path
    arguments: Callable[[Path], list[str]]
    read: Callable[[Path], Iterable[Record]]
    others: Callable[[Path, Path], list[str]] = descriptors_are_other


def prepare(scratch: Path, photos: Path, scene: Path, names: Iterable[str]) -> list[Work]:
    """Make what the commands of these names start from, below a scratch folder."""
    empty, artifacts, exported = (scratch / name for name in ("empty", "detected", "exported"))
    turned = _with_one_turned(scene, scratch / "photos")
    for folder in (empty, artifacts, exported):
        folder.mkdir()

    def must(arguments: list[str]) -> None:
        ended = run(arguments, scratch / "output")
        if ended.code != 0:
            raise SystemExit(f"{' '.join(arguments)} ended with {ended.code}:\n{ended.output}")

    must(["detect", str(artifacts), str(photos), *_DETECT])
    shutil.copytree(artifacts, exported / "artifacts")
    must(["match", str(exported / "artifacts"), "--quiet"])
    must(["export", str(exported / "artifacts"), str(photos), "--quiet"])
    training = ["--synthesize", str(photos), "--height", "64", "--width", "64", "--views", "2", "--batch-size", "1"]
    training += ["--chunk-size", "5", "--warmup", "5", "--n-epochs", "3", "--test-scene-limit", "3", "--workers", "0"]
    training += ["--average", "0.9", "--resume", "--quiet"]
    ray = ["--ray", "local"]
    known = [
        Work("detect", empty, lambda f: ["detect", str(f), str(photos), *_DETECT], of_artifacts),
        Work("match", artifacts, lambda f: ["match", str(f), "--quiet"], of_artifacts),
        Work("verify", exported, lambda f: ["verify", str(f / "artifacts"), "--quiet"], of_verification),
        Work("reconstruct", empty, lambda f: ["reconstruct", str(turned), str(f), *_DETECT], of_model, model_is_other),
        Work("train", empty, lambda f: ["train", "--save-dir", str(f), *training], of_training),
        Work("detect --ray", empty, lambda f: ["detect", str(f), str(photos), *_DETECT, *ray], of_artifacts),
        Work("match --ray", artifacts, lambda f: ["match", str(f), "--quiet", *ray], of_artifacts),
    ]
    return [work for work in known if work.name in names]


def _with_one_turned(scene: Path, folder: Path) -> Path:
    """Copies of the photos, one of them upside down, so that the search for turned photos has something to do."""
    folder.mkdir()
    for number, path in enumerate(sorted(scene.iterdir())):
        if number == 2:
            Image.open(path).rotate(180).save(folder / path.name, quality=95)
        else:
            shutil.copy(path, folder)
    return folder
