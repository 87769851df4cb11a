"""Pictures of the matches of pairs that connect and of pairs that do not."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from disk.errors import ArtifactError, ImageError
from disk.pairs.choose import Pair
from disk.pipeline.pictures import draw_matches_of
from disk.pipeline.report.gather import ModelFacts
from disk.pipeline.report.links import weakest_links
from disk.progress import log
from disk.storage.artifacts import INLIERS, MatchStore, read_features, read_matches
from disk.storage.names import image_name
from disk.viewing import canvas
from disk.viewing.report import Picture

_LOOKED_AT = 500  # sample of unverified pairs; the one with the most matches is drawn
_DPI = 65  # of pictures that the page shows at about 1100 pixels


def draw_pairs(facts: ModelFacts, files: dict[str, Path], folder: Path) -> list[Picture]:
    """Draw the best pair, the weakest link of the model and a pair that does not connect, if there are such.

    Skips pairs that cannot be drawn, with a warning.
    files: photos by name
    folder: folder for the pictures
    """
    if facts.artifacts is None:
        return []
    paths = {image_name(name): path for name, path in files.items()}
    drawn = []
    with (
        read_features(facts.artifacts) as features,
        read_matches(facts.artifacts) as matches,
        read_matches(facts.artifacts, INLIERS) as inliers,
    ):
        for number, (pair, caption) in enumerate(_chosen(facts, matches).items()):
            figure = canvas.new_figure()
            try:
                draw_matches_of(features, matches, inliers, paths, pair)(figure)
            except (ImageError, ArtifactError) as error:
                log.warning("cannot draw the matches of %s and %s: %s", *pair, error)
                continue
            drawn.append(Picture(canvas.save(figure, folder / f"{number}.jpg", _DPI), caption))
    return drawn


def _chosen(facts: ModelFacts, matches: MatchStore) -> dict[Pair, str]:
    """Pairs to draw, and their captions."""
    chosen: dict[Pair, str] = {}
    links = np.nan_to_num(np.triu(facts.links, 1))
    best = divmod(int(links.argmax()), len(links))
    if links[best] > 0:
        chosen[_pair(facts, *best)] = f"The best pair: {int(links[best]):,} verified matches."
    registered = [index for index, name in enumerate(facts.names) if name not in facts.missing]
    for link in weakest_links(facts.links, registered, 1):
        pair = _pair(facts, link.first, link.second)
        chosen.setdefault(pair, f"The weakest link of the model: {link.strength:,} verified matches.")
    in_vain = [pair for pair in _in_vain(facts) if pair in matches]
    if in_vain:
        most = max(in_vain, key=lambda pair: matches.count(pair))
        chosen[most] = f"A pair that does not connect: none of its {matches.count(most):,} matches are verified."
    return {pair: caption for pair, caption in chosen.items() if pair in matches}


def _in_vain(facts: ModelFacts) -> list[Pair]:
    """An even sample of matched but unverified pairs; only those of unregistered photos if there are any."""
    places = np.argwhere(np.triu(facts.links == 0, 1)).tolist()
    missing = {index for index, name in enumerate(facts.names) if name in facts.missing}
    places = [place for place in places if missing & set(place)] or places
    return [_pair(facts, *place) for place in places[:: max(1, len(places) // _LOOKED_AT)]]


def _pair(facts: ModelFacts, first: int, second: int) -> Pair:
    a, b = sorted((image_name(facts.names[first]), image_name(facts.names[second])))
    return a, b
