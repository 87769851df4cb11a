"""The final output of `disk reconstruct`, `disk map` and `disk triangulate`."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

from disk.pipeline.report import REPORT
from disk.pipeline.summary import Reconstruction
from disk.progress import counted

_NAMED = 5  # maximum number of images or cameras to list; summary.json has all
_WEAK = 0.25  # of the median number of points that an image observes


def show(result: Reconstruction, out: Path) -> None:
    """Print the models, cameras, weakest and unconnected images, remarks, and what to run next."""
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "images", "points", "track length", "reprojection error (px)")
    for number, model in enumerate(result.models):
        table.add_row(
            f"sparse/{number}",
            f"{len(model['images'])} of {result.images}",
            f"{model['points']:,}",
            f"{model['track_length']:.2f}",
            f"{model['reprojection_error']:.3f}",
        )
    console = Console(soft_wrap=True)
    console.print(table)
    for line in _lines(result, out):
        console.print(line, highlight=False, markup=False)


def _lines(result: Reconstruction, out: Path) -> list[str]:
    times = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.seconds.items())
    lines = [f"made in {sum(result.seconds.values()):.1f} s: {times}"]
    lines += _growth(result) + _cameras(result.models[0]) + _rig(result.models[0]) + _weakest(result.models[0])
    if result.georegistration is not None:
        lines.append(_place(result.georegistration))
    if result.unconnected:
        names = ", ".join(result.unconnected)
        lines.append(f"images not connected to sparse/0, {len(result.unconnected)}: {names}")
        reasons = [f"  {name}: {result.reasons[name]}" for name in result.unconnected if name in result.reasons]
        lines += _shortened(reasons, "  ... (all in summary.json)")
    if result.failed:
        lines.append(f"photos without features, {len(result.failed)}: {', '.join(result.failed)}")
    if result.stale:
        lines.append(f"photos removed or changed since the last run, {len(result.stale)}: {', '.join(result.stale)}")
    lines += [f"not used: {reason}" for reason in result.unused]
    lines += [f"note: {remark}" for remark in result.remarks]
    lines.append(f"point cloud: {out / 'points.ply'}")
    if (out / REPORT).is_file():
        lines.append(f"report: {out / REPORT}")
    lines.append(f"next:  disk view {shlex.quote(str(out))}   (opens the report: the model in 3D, what connects)")
    lines.append(f"       disk view {shlex.quote(str(out))} --save pictures   (the matches, as pictures)")
    lines.append(f"       disk undistort {shlex.quote(str(out))} splat   (undistorted images, for splatting)")
    lines.append(f'       python -c "import pycolmap; print(pycolmap.Reconstruction({str(out / "sparse" / "0")!r}))"')
    return lines


def _growth(result: Reconstruction) -> list[str]:
    """How an existing model was updated."""
    if result.moved is None:
        return []
    apart = [name for name in result.new if name not in result.added]
    lines = [f"added to the existing model, {len(result.added)}: {', '.join(result.added) or 'none'}"]
    if apart:
        lines.append(f"new photos that could not be added, {len(apart)}: {', '.join(apart)} (reasons below)")
    if result.removed:
        lines.append(f"removed from it, {len(result.removed)}:")
        lines += _shortened(
            [f"  {name}: {reason}" for name, reason in result.removed.items()], "  ... (all in summary.json)"
        )
    lines.append(f"its cameras moved by at most {result.moved:.2%} of their bounding box; --remap maps from scratch")
    return lines


def _cameras(model: dict[str, Any]) -> list[str]:
    cameras = model.get("cameras", [])
    if not cameras:
        return []
    if len(cameras) == 1:
        camera = cameras[0]
        return [f"camera: {camera['model']}{_focal(camera)} for {counted(camera['images'], 'image')}"]
    known = sorted(camera["focal_length"] for camera in cameras if camera["focal_length"])
    middle = (
        f", focal lengths {known[0]:,.1f} to {known[-1]:,.1f} px, median {known[len(known) // 2]:,.1f}" if known else ""
    )
    lines = [f"  {camera['model']}{_focal(camera)}: {camera['first']}" for camera in cameras]
    return [f"cameras, {len(cameras)}{middle}:", *_shortened(lines, "  ... (all in summary.json)")]


def _place(place: dict[str, Any]) -> str:
    outliers = [f"{name} ({metres:,.{0 if metres >= 10 else 2}f} m)" for name, metres in place["outliers"].items()]
    named = ", ".join(outliers[:_NAMED]) + (", ..." if len(outliers) > _NAMED else "")
    origin = f"{place['latitude']:.7f}, {place['longitude']:.7f}, {place['altitude']:.2f} m"
    return (
        f"geo-registered by the GPS of {place['used']} of {place['photos']} photos, residuals: median "
        f"{place['median']:.2f} m, max {place['max']:.2f} m; sparse/0 is in metres east, north and up of {origin}"
    ) + (f"; far from their GPS positions: {named}" if named else "")


def _rig(model: dict[str, Any]) -> list[str]:
    mounted = list(model.get("rig", {}).items())
    if not mounted:
        return []
    first, others = mounted[0][0], [f"{camera} {_apart(pose)}" for camera, pose in mounted[1:]]
    return [f"rig, from {first}: {', '.join(others)}"]


def _apart(pose: dict[str, Any]) -> str:
    distance = sum(value**2 for value in pose["translation"]) ** 0.5
    degrees = math.degrees(2 * math.acos(min(1.0, abs(pose["rotation"][0]))))
    return f"{distance:.4g} away, rotated by {degrees:.2f} degrees"


def _focal(camera: dict[str, Any]) -> str:
    return f", focal length {camera['focal_length']:,.1f} px" if camera["focal_length"] else ""


def _weakest(model: dict[str, Any]) -> list[str]:
    """The images that observe far fewer points than most."""
    seen = sorted(model.get("observations", {}).items(), key=lambda image: (image[1], image[0]))
    if not seen:
        return []
    middle = seen[len(seen) // 2][1]
    weak = [f"{name} ({points:,})" for name, points in seen if points < _WEAK * middle][:_NAMED]
    return [f"weakest images, by number of points (median {middle:,}): {', '.join(weak)}"] if weak else []


def _shortened(lines: list[str], rest: str) -> list[str]:
    return lines if len(lines) <= _NAMED else [*lines[:_NAMED], rest]
