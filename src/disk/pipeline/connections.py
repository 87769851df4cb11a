"""Why images are in a model or not: which pairs are matched and verified, and how the camera moved between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from disk.options import option
from disk.pairs.choose import Pair, connected
from disk.pipeline.precheck import describe_groups
from disk.pipeline.verify import turning_message
from disk.progress import counted
from disk.storage.artifacts import INLIERS, UNMATCHED, read_features, read_matches


@dataclass(frozen=True)
class Connections:
    """The results of verification, by image name.

    keypoints: number in each image
    pairs: all matched pairs
    inliers: number in each verified pair that has any
    watermarks: pairs that have only a watermark in common
    turning: verified pairs with a (nearly) pure rotation
    """

    keypoints: dict[str, int]
    pairs: list[Pair]
    inliers: dict[Pair, int]
    watermarks: set[Pair]
    turning: set[Pair]

    @cached_property
    def pairs_of(self) -> dict[str, list[Pair]]:
        """The pairs that each image is in."""
        found: dict[str, list[Pair]] = defaultdict(list)
        for pair in self.pairs:
            for name in pair:
                found[name].append(pair)
        return dict(found)

    @property
    def mostly_turning(self) -> str | None:
        """The message if most pairs have a pure rotation; None otherwise."""
        if self.inliers and 2 * len(self.turning) >= len(self.inliers):
            return turning_message(len(self.turning), len(self.inliers))
        return None


def read_connections(artifacts: Path, database: Path) -> Connections:
    """Read the results of verification from inliers.h5 and the database; raises the errors of reading them."""
    from disk.colmap.database import image_ids, open_database
    from disk.colmap.verification import kinds_of_pairs

    with read_features(artifacts) as features:
        keypoints = {name: len(features.keypoints(name)) for name in features.names}
    pairs, verified = read_pairs(artifacts)
    inliers = {pair: count for pair, count in verified.items() if count}
    with open_database(database) as opened:
        ids = image_ids(opened)
        kinds: dict[str, set[Pair]] = defaultdict(set)
        for pair, kind in zip(verified, kinds_of_pairs(opened, [(ids[a], ids[b]) for a, b in verified]), strict=True):
            kinds[kind].add(pair)
    return Connections(keypoints, pairs, inliers, kinds["WATERMARK"], kinds["PANORAMIC"] & set(inliers))


def read_pairs(artifacts: Path) -> tuple[list[Pair], dict[Pair, int]]:
    """All matched pairs, and the number of inliers (possibly 0) of the verified ones; raises the errors of reading."""
    with read_matches(artifacts, INLIERS) as found:
        return matched_pairs(artifacts), {pair: found.count(pair) for pair in found.pairs()}


def matched_pairs(artifacts: Path) -> list[Pair]:
    """All matched pairs, sorted, also those with too few matches to store; raises the errors of reading."""
    with read_matches(artifacts) as matches:
        pairs = matches.pairs()
    if (artifacts / UNMATCHED).is_file():
        with read_matches(artifacts, UNMATCHED) as unmatched:
            pairs = sorted({*pairs, *unmatched.pairs()})
    return pairs


def why_not(found: Connections, name: str, registered: Collection[str]) -> str:
    """Why an image is not in the model of the registered images."""
    own = found.pairs_of.get(name, [])
    partners = {pair[pair[0] == name]: found.inliers[pair] for pair in own if pair in found.inliers}
    inside = {other: n for other, n in partners.items() if other in registered}
    if not found.keypoints.get(name):
        return "no keypoints: is it blank, out of focus or masked?"
    if not own:
        return "not in any matched pair"
    if inside:
        best = max(inside, key=lambda other: inside[other])
        return f"verified with {best} ({inside[best]:,} inliers), but no pose fits the points"
    if partners:
        best = max(partners, key=lambda other: partners[other])
        return f"verified only with other images outside the model, such as {best} ({partners[best]:,} inliers)"
    if any(pair in found.watermarks for pair in own):
        return "has only a watermark in common with the others"
    return f"none of its {len(own)} pairs is verified"


def why_no_model(found: Connections, listed: Path | None = None) -> str:
    """Why no model could be made, and what to do, in one line.

    listed: the list of pairs, if there was one
    """
    groups = connected(found.pairs)
    if not found.inliers:
        if found.watermarks:
            return (
                "the images have only a watermark in common, such as a date stamp or a frame "
                f"({counted(len(found.watermarks), 'pair')}); apart from it {_remedy()}"
            )
        hint = f" The list {listed} does not connect: {describe_groups(groups)}." if listed and len(groups) > 1 else ""
        return f"no two images have enough matches that pass geometric verification: {_remedy()}.{hint}"
    if found.mostly_turning:
        return found.mostly_turning
    together = connected(found.inliers)[0]
    best = max(found.inliers, key=lambda pair: found.inliers[pair])
    verified = f"{best[0]} and {best[1]} are verified ({found.inliers[best]:,} inliers)"
    if len(together) > 2:
        return (
            f"{len(together)} images are connected by verified pairs, but no pair is suitable to start from, not "
            f"even {best[0]} and {best[1]} ({found.inliers[best]:,} inliers): take the photos from further apart, or "
            f"keep more features ({option('n')})"
        )
    if listed and len(groups) > 1:
        return f"the list {listed} does not connect: {describe_groups(groups)}; a model needs pairs that share images"
    if len(found.keypoints) == 2:
        return (
            f"{verified}, but were taken from almost the same place, so depth cannot be estimated; a model needs a "
            "third photo, or two from further apart"
        )
    return (
        f"{verified}, but no third image is verified with either, and two from almost the same place are not enough "
        f"for a model: {_remedy()}"
    )


def _remedy() -> str:
    return f"they need more overlap, more features ({option('n')}), or {option('max_size', 0)}"
