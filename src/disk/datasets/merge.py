"""Merges several data sets into one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from disk.datasets.scenes import Scene, SceneSet, write_dataset_json
from disk.errors import DatasetError
from disk.options import AnyPath, option


def merge(sources: Sequence[AnyPath], out: AnyPath, relative: bool = False) -> list[Scene]:
    """Write the scenes of several dataset.json files into one; images, calibrations and depth maps stay in place.

    Repeated scene names get a number: rock, rock-2.
    sources: dataset.json files or their folders.
    out: the .json file to write, or an existing folder for it.
    relative: write folders relative to `out`.

    Raises DatasetError if a source cannot be read or is given twice, if `out` is not a .json file, or if the tuples
    differ in length.
    """
    if not sources:
        raise DatasetError("nothing to merge; give the dataset.json files of two or more data sets")
    out = Path(out)
    out = out / "dataset.json" if out.is_dir() else out
    if out.suffix.lower() != ".json":
        raise DatasetError(f"{out}: a data set is a .json file; give {option('out')} a name that ends in .json")
    sets = [SceneSet.load(Path(source)) for source in sources]
    for path, count in Counter(each.path.resolve() for each in sets).items():
        if count > 1:
            raise DatasetError(f"{path} is given {count} times, which would repeat its tuples; give it once")
    for other in sets[1:]:
        if other.tuple_size != sets[0].tuple_size:
            raise DatasetError(
                f"{sets[0].path} has tuples of {sets[0].tuple_size} images but {other.path} of {other.tuple_size}; "
                f"import them again with the same {option('tuple_size')}"
            )
    taken = {scene.name for scenes in sets for scene in scenes.scenes}
    used: set[str] = set()
    merged = []
    for scene in (scene for scenes in sets for scene in scenes.scenes):
        name, number = scene.name, 1
        while name in used or (number > 1 and name in taken):
            number += 1
            name = f"{scene.name}-{number}"
        used.add(name)
        merged.append(replace(scene, name=name))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_dataset_json(out, merged, relative)
    return merged
