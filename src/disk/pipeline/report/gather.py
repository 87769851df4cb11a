"""What a page tells of a model, gathered from the model, its summary, its artifacts and its photos."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
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
from disk.storage.names import leads_out

if TYPE_CHECKING:
    from disk.colmap.overview import Overview

_NOT_TOLD = "unknown: the model does not tell"


@dataclass(frozen=True, eq=False)
class ModelFacts:
    """A model as its page shows it.

    folder: what was asked for; overview: the model itself; summary: what `disk reconstruct` noted, if it made it;
    artifacts: what it was made of, if that is there; photos: folder of the photos, if it is there; names: all photos,
    registered or not, sorted; missing: why some of them are not in the model; links: how strongly each two photos
    connect, 0 where they were matched in vain and nan where they were not matched; unit: what links are counted in.
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
        """The files of photos that are there, by name; of no name that leads out of their folder."""
        if self.photos is None:
            return {}
        inside = {name: self.photos / path_of(name) for name in self.names if not leads_out(name)}
        return {name: path for name, path in inside.items() if path.is_file()}


def gather(folder: Path, images: Path | None = None) -> ModelFacts:
    """Read all there is about a model: an output of `disk reconstruct`, a COLMAP workspace or a model folder.

    images: the folder of photos, if it is not the one that the summary names, or `images` in the folder. Raises
    ColmapError where there is no model, ImageError for a folder of photos that is given and is not there.
    """
    from disk.colmap.overview import read_overview
    from disk.colmap.workspace import find_model

    if images is not None and not images.is_dir():
        raise ImageError(f"image folder {images} does not exist")
    summary = None
    if (folder / SUMMARY).is_file():
        with contextlib.suppress(ColmapError):  # another program's
            summary = read_summary(folder)
    overview = read_overview(folder / "sparse" / "0" if summary else find_model(folder))
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
        log.warning("no photos of %s are here, so its page shows none; name their folder to `disk view`", folder)
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
    places = {PurePosixPath(name).with_suffix("").as_posix(): index for name, index in place.items()}
    pairs, inliers = read_pairs(artifacts)
    strengths = {**dict.fromkeys(pairs, 0), **inliers}
    known = [(places[a], places[b], n) for (a, b), n in strengths.items() if a in places and b in places]
    return link_matrix(len(place), known)


def _shared_points(overview: Overview, place: dict[str, int]) -> Float[np.ndarray, "n n"]:
    links = np.full((len(place), len(place)), np.nan)
    at = np.array([place[view.name] for view in overview.views], int)
    links[np.ix_(at, at)] = np.where(overview.shared > 0, overview.shared, np.nan)
    return links
