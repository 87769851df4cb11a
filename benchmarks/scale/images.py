"""A made street through retrieval, matching, export and verification: seconds, memory and disk of each."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from made import OVERLAP, street
from measure import cost_of, disk

from disk.pairs.retrieval import retrieval
from disk.pipeline.export import ExportOptions, export
from disk.pipeline.feature_cache import FeatureCache
from disk.pipeline.match import MatchOptions, match
from disk.pipeline.verify import verify
from disk.storage.artifacts import INLIERS, default_database, read_features, read_matches


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--counts", type=int, nargs="+", default=[50, 500, 5000], help="images")
    parser.add_argument("--features", type=int, default=100, help="of each image")
    parser.add_argument("--top-k", type=int, default=10, help="similar images that each is matched with")


def run(folder: Path, options: argparse.Namespace) -> None:
    print(f"{options.features} features an image, matched with the {options.top_k} most similar\n")
    print("| images | stage | pairs | s | CPU s | CPU ms an image or pair | peak memory, MB | on disk, MB |")
    print("|---|---|---|---|---|---|---|---|")
    for count in options.counts:
        _walk(folder / f"{count}", count, options)


def _walk(folder: Path, count: int, options: argparse.Namespace) -> None:
    folder.mkdir()
    artifacts, photos, chosen = folder / "artifacts", folder / "photos", folder / "pairs.txt"
    street(artifacts, count, options.features, photos)
    stages: dict[str, Callable[[], object]] = {
        "nothing": partial(_nothing, artifacts),
        "retrieval": partial(_retrieve, artifacts, chosen, options.top_k),
        "match": partial(_match, artifacts, chosen),
        "export": partial(export, artifacts, photos),
        "verify": partial(verify, artifacts),
        "export, nothing new": partial(_export_again, artifacts, photos),
        "verify, nothing new": partial(verify, artifacts),
    }
    pairs = 0
    for name, stage in stages.items():
        before = disk(folder)
        cost = cost_of(stage)
        if name == "retrieval":
            pairs = len(chosen.read_text().splitlines())
        units = pairs if pairs and name != "retrieval" else count
        print(
            f"| {count} | {name} | {pairs or ''} | {cost.wall:.1f} | {cost.cpu:.1f} | {1000 * cost.cpu / units:.2f} | "
            f"{cost.peak:.0f} | {(disk(folder) - before) / 1e6:.1f} |",
            flush=True,
        )
    _check(artifacts)
    shutil.rmtree(folder)


def _check(artifacts: Path) -> None:
    """Print how many of the pairs see the same part of the street, and how many of these hold in verification."""
    with read_matches(artifacts) as matches, read_matches(artifacts, INLIERS) as inliers:
        pairs = matches.pairs()
        near = [pair for pair in pairs if abs(int(pair[0]) - int(pair[1])) <= OVERLAP]
        holding = sum(inliers.count(pair) >= 15 for pair in near)
        far = sum(inliers.count(pair) > 0 for pair in set(pairs) - set(near))
    others = len(pairs) - len(near)
    print(f"\n{len(near)} of {len(pairs)} pairs overlap, {holding} of them verified; {far} of {others} others\n")


def _nothing(artifacts: Path) -> None:
    """What a process costs that loads the libraries and opens the features."""
    with read_features(artifacts) as features:
        json.dumps(features.names)


def _retrieve(artifacts: Path, chosen: Path, top_k: int) -> None:
    with read_features(artifacts) as features:
        cache = FeatureCache(features, 2048 << 20, False, lambda found: found)
        chosen.write_text("".join(f"{first} {second}\n" for first, second in retrieval(cache, top_k)))


def _match(artifacts: Path, chosen: Path) -> None:
    match(artifacts, MatchOptions(pairs="list", pairs_file=chosen, rt=0.95, device="cpu"))


def _export_again(artifacts: Path, photos: Path) -> None:
    assert default_database(artifacts).exists()
    export(artifacts, photos, ExportOptions(overwrite=True))
