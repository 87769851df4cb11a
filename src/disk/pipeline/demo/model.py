"""The second half of the demo: from rendered photographs to a 3D model, compared with the true cameras."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from disk.errors import ColmapError
from disk.geometry.camera import Camera
from disk.pipeline.demo.alignment import Alignment, Pose, align
from disk.pipeline.demo.pictures import draw_model
from disk.pipeline.demo.scene import build_room, orbit, render_view
from disk.pipeline.reconstruct import Reconstruction, ReconstructOptions, reconstruct
from disk.pipeline.view import ViewOptions, view
from disk.progress import track
from disk.viewing.sheet import save_sheet


@dataclass(frozen=True)
class SceneResult:
    """The result of reconstructing the rendered photographs.

    model: None if no images could be connected
    problem: why there is no model; '' if there is one
    alignment: None with fewer than three registered images
    pictures: (file, caption), in display order
    """

    views: int
    model: Reconstruction | None
    problem: str
    alignment: Alignment | None
    pictures: list[tuple[Path, str]]


def run_scene(folder: Path, views: int, size: tuple[int, int], options: ReconstructOptions) -> SceneResult:
    """Render views to folder/images, reconstruct them in folder/model, compare with the truth, save pictures."""
    width, height = size
    cameras = {f"view{i:02d}.jpg": camera for i, camera in enumerate(orbit(views, width, height))}
    images, out = folder / "images", folder / "model"
    for done in (images, out):
        shutil.rmtree(done, ignore_errors=True)
    sheet = _render(cameras, images, size, folder / "views.jpg")
    pictures = [(sheet, f"The {views} rendered photographs.")]
    try:
        model = reconstruct(images, out, options)
    except ColmapError as error:
        return SceneResult(views, None, str(error), None, pictures)
    pictures += _draw_matches(out / "artifacts", images, sorted(cameras))
    estimated = read_poses(out)
    alignment = align(estimated, {name: _pose(camera) for name, camera in cameras.items()})
    if alignment is not None:
        pictures += draw_model(out, estimated, cameras, alignment, size, folder)
    return SceneResult(views, model, "", alignment, pictures)


def read_poses(out: Path) -> dict[str, Pose]:
    """The poses of the largest model written by `reconstruct`, by file name."""
    from disk.colmap.workspace import open_workspace

    workspace = open_workspace(out, out.parent / "images")
    return {image.name: (image.R, image.t) for image in workspace.images}


def _render(cameras: Mapping[str, Camera], folder: Path, size: tuple[int, int], sheet: Path) -> Path:
    folder.mkdir(parents=True)
    room = build_room()
    rendered = []
    for name, camera in track(cameras.items(), "render", "view", len(cameras)):
        rendered.append(render_view(room, camera, *size))
        Image.fromarray(rendered[-1]).save(folder / name, quality=95)
    return save_sheet(rendered, 4, sheet)


def _draw_matches(artifacts: Path, images: Path, files: list[str]) -> list[tuple[Path, str]]:
    """Draw the matches of two neighbouring views in the middle of the arc."""
    pair = tuple(Path(file).stem for file in files[len(files) // 2 - 1 : len(files) // 2 + 1])
    drawn = view(artifacts, images, "matches", ViewOptions(save=artifacts.parent.parent, pairs=pair))
    caption = "Matches of two neighbouring views, and which of them agree with the two-view geometry."
    return [(path, caption) for path in drawn]


def _pose(camera: Camera) -> Pose:
    return camera.R.numpy(), camera.t.numpy()
