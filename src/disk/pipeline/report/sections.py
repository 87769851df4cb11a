"""The sections of a model's page: numbers, the model in 3D, connections, unregistered photos, matches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from disk.colmap.overview import Overview
from disk.pipeline.report.gather import ModelFacts
from disk.pipeline.report.links import Link, strongest_link, weakest_links
from disk.viewing.cloud import pyramid
from disk.viewing.frame import camera_length, near, upright_rotation
from disk.viewing.plots import MAX_POINTS, ShownPhoto, matrix_plot, model_plot, photos_data
from disk.viewing.report import Picture, Section, Table

_WEAKEST = 10  # maximum number of weak links or photos to list


def model_sections(facts: ModelFacts, thumbnails: dict[str, bytes], pictures: Sequence[Picture]) -> list[Section]:
    """All sections in the order of the page, without empty ones."""
    weakest = weakest_links(facts.links, _registered(facts), _few(facts))
    sections = [_numbers(facts), _space(facts, thumbnails), _connections(facts, weakest)]
    if facts.missing:
        sections.append(_unregistered(facts))
    sections.append(_weak_photos(facts))
    if pictures:
        sections.append(Section("Matches", "Green matches agree with the two-view geometry.", (), pictures))
    return sections


def _few(facts: ModelFacts) -> int:
    """The number of photos to list as weak."""
    return min(_WEAKEST, 1 + len(facts.overview.views) // 4)


def _registered(facts: ModelFacts) -> list[int]:
    return [index for index, name in enumerate(facts.names) if name in facts.overview.numbers.observations]


def _numbers(facts: ModelFacts) -> Section:
    numbers, summary = facts.overview.numbers, facts.summary
    shown = [
        ("photos in the model", f"{len(numbers.images):,} of {len(facts.names):,}"),
        ("points", f"{numbers.points:,}"),
        ("mean reprojection error", f"{numbers.reprojection_error:.2f} px"),
        ("mean track length", f"{numbers.track_length:.1f} photos"),
    ]
    text = ""
    if summary is not None:
        shown.append(("pairs that connect", f"{summary.connected:,}"))
        if len(summary.models) > 1:
            shown.append(("models; this is the largest", f"{len(summary.models):,}"))
        remarks = [*summary.remarks, *(f"not used: {reason}" for reason in summary.unused)]
        text = " ".join(f"{remark[:1].upper()}{remark[1:].rstrip('.')}." for remark in remarks)
    rows = [
        (camera.model, camera.first, f"{camera.images:,}", f"{camera.focal_length:,.1f}" if camera.focal_length else "")
        for camera in sorted(numbers.cameras, key=lambda camera: -camera.images)
    ]
    table = Table(("camera", "first photo", "photos", "focal length (px)"), rows, 2)
    return Section("The numbers", text, shown, (), table)


def _space(facts: ModelFacts, thumbnails: dict[str, bytes]) -> Section:
    overview = facts.overview
    views = [view.camera for view in overview.views if view.camera is not None]
    rotation = upright_rotation(np.array([camera.R.numpy() for camera in views]).reshape(-1, 3, 3))
    centres = np.array([view.centre for view in overview.views]).reshape(-1, 3)
    points = overview.points
    shown = np.flatnonzero(near(points, centres))
    far = len(points) - len(shown)
    if len(shown) > MAX_POINTS:
        shown = np.sort(np.random.default_rng(0).choice(shown, MAX_POINTS, replace=False))
    # the browser draws in float32, which is too coarse far from the origin
    middle = np.median(points, axis=0) if len(points) else centres.mean(0)
    length = camera_length(centres, points[shown])
    text = "Drag to turn, scroll to zoom; cameras are orange."
    if len(shown) < len(points):
        text += f" {len(shown):,} of {len(points):,} points are drawn"
        text += f"; {far:,} are too far away." if far else "."
    place = {name: index for index, name in enumerate(facts.names)}
    plot = photos_data(_photos(facts, thumbnails)) + model_plot(
        (points[shown] - middle) @ rotation.T,
        overview.colours[shown],
        (centres - middle) @ rotation.T,
        (_pyramids(overview, length) - middle) @ rotation.T,
        [place[view.name] for view in overview.views],
    )
    return Section("The model", text, plot=plot)


def _pyramids(overview: Overview, length: float) -> np.ndarray:
    drawn = [pyramid(view.camera, view.size, length) for view in overview.views if view.camera is not None]
    return np.array(drawn).reshape(-1, 2, 3)


def _photos(facts: ModelFacts, thumbnails: dict[str, bytes]) -> list[ShownPhoto]:
    photos = []
    for index, name in enumerate(facts.names):
        if name in facts.missing:
            text = f"not in the model: {facts.missing[name]}"
        else:
            text = f"{facts.overview.numbers.observations[name]:,} points"
        best = strongest_link(facts.links, index)
        if best is not None and name not in facts.missing:
            text += f"; strongest link: {facts.names[best[0]]} ({best[1]:,} {facts.unit})"
        photos.append(ShownPhoto(name, text, thumbnails.get(name)))
    return photos


def _connections(facts: ModelFacts, weakest: Sequence[Link]) -> Section:
    if facts.artifacts is not None:
        text = (
            "Each cell is a pair of photos, by name; its colour is the number of matches that agree with the two-view "
            "geometry. Grey pairs were matched but not verified; empty ones were not matched."
        )
    else:
        text = "Each cell is a pair of photos, by name; its colour is the number of points that both see."
    text += (
        " The table lists the links at which the model would break apart first: no stronger link joins the two sides "
        "of one."
    )
    rows = [
        (facts.names[link.first], facts.names[link.second], f"{link.strength:,}", "{:,} + {:,}".format(*link.joins))
        for link in weakest
    ]
    table = Table(("weakest links, from", "to", facts.unit, "photos joined"), rows, 2) if rows else None
    return Section("Which photos connect", text, (), (), table, matrix_plot(facts.links, facts.names, facts.unit))


def _unregistered(facts: ModelFacts) -> Section:
    rows = sorted(facts.missing.items())
    return Section(f"Photos that are not in the model: {len(rows):,}", "", (), (), Table(("photo", "reason"), rows, 2))


def _weak_photos(facts: ModelFacts) -> Section:
    seen = sorted(facts.overview.numbers.observations.items(), key=lambda photo: (photo[1], photo[0]))
    place = {name: index for index, name in enumerate(facts.names)}
    rows = []
    for name, points in seen[: _few(facts)]:
        best = strongest_link(facts.links, place[name])
        rows.append((name, facts.names[best[0]] if best else "", f"{best[1]:,}" if best else "", f"{points:,}"))
    middle = seen[len(seen) // 2][1]
    text = f"Photos that see the fewest points; the median photo sees {middle:,}."
    table = Table(("photo", "its strongest link", facts.unit, "points"), rows, 2)
    return Section("The weakest photos", text, (), (), table)
