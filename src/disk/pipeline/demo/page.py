"""The demo's results as text, for the terminal and the report."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from disk.pipeline.demo.alignment import Alignment
from disk.pipeline.demo.model import SceneResult
from disk.pipeline.demo.stereo import TOLERANCE, StereoResult
from disk.viewing.report import Picture, Section, Table, write_report

Facts = list[tuple[str, str]]


def stereo_facts(result: StereoResult) -> Facts:
    """(what, value) of the stereo pair."""
    share = f" ({100 * result.right / result.truth:.1f} %)" if result.truth else ""
    return [
        ("keypoints, left and right", f"{result.keypoints[0]} + {result.keypoints[1]}"),
        ("matches", f"{result.matches}"),
        ("of these with ground truth", f"{result.truth}"),
        (f"agree within {TOLERANCE:g} px", f"{result.right}{share}"),
        ("their median error", f"{result.error:.2f} px"),
    ]


def scene_facts(result: SceneResult) -> Facts:
    """(what, value) of the reconstructed scene."""
    model = result.model
    if model is None:
        return [("registered views", f"0 of {result.views}")]
    facts = [
        ("registered views", f"{model.registered} of {result.views}"),
        ("points", f"{model.points}"),
        ("mean reprojection error", f"{model.reprojection_error:.2f} px"),
        ("mean track length", f"{model.track_length:.1f} views"),
    ]
    if result.alignment is not None:
        rotation, position = result.alignment.rotation.values(), result.alignment.position.values()
        facts += [
            ("rotation error, median / worst", f"{median(rotation):.2f}° / {max(rotation):.2f}°"),
            ("position error, median / worst", f"{median(position):.2f} % / {max(position):.2f} %"),
        ]
    return facts


def write_page(path: Path, weights: str, stereo: StereoResult, scene: SceneResult, seconds: float) -> Path:
    """Write the HTML report of both halves."""
    intro = (
        f"Real photographs with known geometry, run in {seconds:.0f} s with the weights “{weights}”. "
        "The pictures and numbers below come from this run, good or bad."
    )
    return write_report(path, "DISK demo", intro, [_stereo_section(stereo), _scene_section(scene)])


def _stereo_section(result: StereoResult) -> Section:
    text = (
        "Two photographs of a motorcycle (Middlebury 2014 stereo benchmark, quarter size). For every pixel of the "
        "left one, except a few, its position in the right one was measured with structured light. A match is correct "
        f"if it ends within {TOLERANCE:g} pixels of that position; the matches are not verified geometrically."
    )
    pictures = [
        Picture(result.matches_picture, "All mutual nearest neighbours, coloured by the measured disparity."),
        Picture(result.keypoints_picture, "The keypoints of the left photograph, coloured by score."),
    ]
    return Section("A stereo pair with ground truth", text, stereo_facts(result), pictures)


def _scene_section(result: SceneResult) -> Section:
    text = (
        f"A room rendered from {result.views} cameras, its surfaces covered with real photographs. The pipeline gets "
        "only the images: detection, matching of all pairs, geometric verification and incremental mapping with an "
        "unknown focal length. The model is then aligned to the true cameras by a similarity; position errors are in "
        "percent of the cameras' distance to the scene."
    )
    if result.model is None:
        text += f" This time no model could be made: {result.problem}."
    elif result.alignment is None:
        text += " Too few views were registered to compare them with the true cameras."
    pictures = [Picture(path, caption) for path, caption in result.pictures]
    table = _pose_table(result.alignment) if result.alignment is not None else None
    return Section("From photographs to a 3D model", text, scene_facts(result), pictures, table)


def _pose_table(alignment: Alignment) -> Table:
    rows = [
        (name, f"{alignment.rotation[name]:.3f}°", f"{alignment.position[name]:.3f} %")
        for name in sorted(alignment.rotation)
    ]
    return Table(("view", "rotation error", "position error"), rows)
