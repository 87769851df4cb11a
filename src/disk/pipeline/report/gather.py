"""Gathering the facts for a model's page from the model, its summary, its artifacts and its photos."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from disk.errors import ColmapError, ImageError
from disk.images.listing import list_images, path_of
from disk.pipeline.connections import read_pairs
from disk.pipeline.report.links import link_matrix
from disk.pipeline.summary import SUMMARY, Reconstruction, read_summary
from disk.progress import log
from disk.shapes import Float
from disk.storage.artifacts import INLIERS, KEYPOINTS, artifacts_folder
from disk.storage.names import image_name, leads_out

if TYPE_CHECKING:
    from disk.colmap.overview import Overview

_NOT_TOLD = "unknown: not recorded in the model"


@dataclass(frozen=True, eq=False)
class ModelFacts:
    """The facts on a model's page.

    folder: the folder given by the user
    overview: the model itself
    summary: the summary of `disk reconstruct`, if it made the model
    artifacts, photos: their folders, if they exist
    names: all photos, registered or not, sorted
    missing: photos that are not in the model, and why
    links: strength of the link of each two photos; 0 if they were matched but not verified, nan if not matched
    unit: unit of the links
    """

    folder: Path
    overview: Overview
    summary: Reconstruction | None
    artifacts: Path | None
    photos: Path | None
    names: list[str]
    missing: dict[str, str]
    links: Float[np.ndarray, "n n"]
    unit: str

    def files(self) -> dict[str, Path]:
        """Existing photo files by name; ignores names that lead out of the folder."""
        if self.photos is None:
            return {}
        inside = {name: self.photos / path_of(name) for name in self.names if not leads_out(name)}
        return {name: path for name, path in inside.items() if path.is_file()}


def gather(folder: Path, images: Path | None = None) -> ModelFacts:
    """Gather the facts about a model.

    folder: an output of `disk reconstruct`, a COLMAP workspace or a model folder
    images: folder of the photos; default: the one recorded in the summary, or folder/images

    Raises ColmapError without a model, ImageError if the given folder of photos is missing.
    """
    from disk.colmap.overview import read_overview
    from disk.colmap.workspace import find_model

    if images is not None and not images.is_dir():
        raise ImageError(f"image folder {images} does not exist")
    summary = None
    if (folder / SUMMARY).is_file():
        with contextlib.suppress(ColmapError):  # written by another program
            summary = read_summary(folder)
    overview = read_overview(folder / "sparse" / "0" if summary else find_model(folder))
    if not overview.views:
        raise ColmapError(f"the model in {folder} has no image with a pose, so there is nothing to show")
    photos = images or _photos(folder, summary)
    artifacts: Path | None = artifacts_folder(folder)
    if artifacts is None or not all((artifacts / file).is_file() for file in (KEYPOINTS, INLIERS)):
        artifacts = None
    registered = [view.name for view in overview.views]
    missing = _missing(summary, photos, registered)
    names = sorted({*registered, *missing})
    place = {name: index for index, name in enumerate(names)}
    if artifacts is not None:
        links, unit = _verified_links(artifacts, place), "inliers"
    else:
        links, unit = _shared_points(overview, place), "shared points"
    return ModelFacts(folder, overview, summary, artifacts, photos, names, missing, links, unit)


def _photos(folder: Path, summary: Reconstruction | None) -> Path | None:
    places = [Path(summary.photos)] if summary and summary.photos else []
    found = [place for place in (*places, folder / "images") if place.is_dir()]
    if not found:
        log.warning("the photos of %s are not found, so its page shows none; give their folder to `disk view`", folder)
    return found[0] if found else None


def _missing(summary: Reconstruction | None, photos: Path | None, registered: list[str]) -> dict[str, str]:
    if summary is not None:
        others = {name: f"in sparse/{n}" for n, model in enumerate(summary.models) if n for name in model["images"]}
        reasons = {name: summary.reasons.get(name, _NOT_TOLD) for name in summary.unconnected}
        apart = {name: f"{others[name]}; {reason}" for name, reason in reasons.items() if name in others}
        found = {**reasons, **apart, **summary.failed}
    else:
        found = {}
        with contextlib.suppress(ImageError):  # a folder without photos
            found = {file.relative: _NOT_TOLD for file in list_images(photos)} if photos else {}
    return {name: reason for name, reason in found.items() if name not in set(registered)}


def _verified_links(artifacts: Path, place: dict[str, int]) -> Float[np.ndarray, "n n"]:
    places = {image_name(name): index for name, index in place.items()}
    pairs, inliers = read_pairs(artifacts)
    strengths = {**dict.fromkeys(pairs, 0), **inliers}
    known = [(places[a], places[b], n) for (a, b), n in strengths.items() if a in places and b in places]
    return link_matrix(len(place), known)


def _shared_points(overview: Overview, place: dict[str, int]) -> Float[np.ndarray, "n n"]:
    links = np.full((len(place), len(place)), np.nan)
    at = np.array([place[view.name] for view in overview.views], int)
    links[np.ix_(at, at)] = np.where(overview.shared > 0, overview.shared, np.nan)
    return links
