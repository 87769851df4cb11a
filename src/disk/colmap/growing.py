"""Adding images to existing models, which keep their frame, scale and ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pycolmap

from disk.colmap.database import clear_errors, open_database
from disk.colmap.georegistration import Placed, kept_place
from disk.colmap.mapping import incremental_options, place_of, run_incremental
from disk.colmap.models import Model, describe, scratch_beside, write_models
from disk.colmap.priors import local_map
from disk.colmap.schema import keep_readable
from disk.colmap.workspace import open_model
from disk.errors import ColmapError
from disk.images.gps import GpsPosition
from disk.options import option
from disk.storage.locks import file_lock
from disk.storage.made_from import made_from

GONE, CHANGED = "no longer among the photos", "its photo or its features changed"
UNLINKED, UNFIT = "in no verified pair any more", "no pose fits its points any more"
_MODEL_IMAGES = 3  # minimum number of images in a new model


@dataclass(frozen=True)
class Growth:
    """How models changed.

    added: names of the images that joined a model
    removed: reason by name for the images removed from a model; one whose photo changed may have joined again
    moved: largest movement of a camera that stayed, relative to the diagonal of the box around the cameras
    remarks: messages about whole models
    """

    added: list[str] = field(default_factory=list)
    removed: dict[str, str] = field(default_factory=dict)
    moved: float = 0.0
    remarks: list[str] = field(default_factory=list)


def grow_models(
    database: Path,
    images: Mapping[str, Path],
    out: Path,
    seed: int = 0,
    note: Mapping[str, Any] | None = None,
    fix_intrinsics: bool = False,
    positions: Mapping[str, GpsPosition] = MappingProxyType({}),
) -> tuple[list[Model], Growth]:
    """Register the images of a verified database that the models `out/0`, `out/1`, ... lack; replaces `out` at the end.

    Image, camera and point ids stay, and each model is moved back to its frame after bundle adjustment. Images that are
    gone or changed are removed first. The largest model is continued with all images, and each further one with those
    in no model before it; a model whose images are all in earlier ones is dropped. The remaining images may form new
    models. Returns no models, keeps the existing ones, and says why in the remarks, if these are not worth growing:
    none keeps two images, the largest never had more than two (its focal lengths are guesses), or the models have fewer
    than half of the images that they were made from and that have a verified pair.
    positions: by GPS; those of new images are only compared with the model, and neither move nor guide it
    images, note, fix_intrinsics: as for `map_images`

    Raises the errors of `map_images` except NoModelError, and ColmapError if the ids of images or cameras in the
    database differ from those in the models.
    """
    pycolmap.logging.minloglevel = int(pycolmap.logging.FATAL)
    with scratch_beside(out) as scratch:
        before = [open_model(folder) for folder in model_folders(out)]
        removed: dict[str, str] = {}
        kept = []
        with open_database(database) as opened:
            poor = _why_not_worth_growing(before, set(made_from(out).get("images", ())), opened)
            if poor:
                return [], Growth(remarks=[poor])
            for number, model in enumerate(before):
                removed |= _remove_stale(model, opened, fix_intrinsics)
                if model.num_reg_images() > 1 and model.num_points3D():
                    kept.append((number, _without_the_removed(model, opened, scratch / f"kept-{number}")))
        found: list[pycolmap.Reconstruction] = []
        places: list[Placed | str | None] = []
        remarks: list[str] = []
        moved = 0.0
        with file_lock(database), clear_errors(f"cannot use {database}"):
            for number, model in kept:
                own = _registered(model)
                taken = {name for other in found for name in _registered(other)}
                if own <= taken:
                    remarks.append(f"all {len(own)} images of sparse/{number} are now part of a larger model")
                    continue
                names = sorted((set(images) - taken) | own)
                grown = _continue(database, model, names, scratch / f"grown-{number}", seed, fix_intrinsics)
                _keep_point_ids(model, grown)
                moved = max(moved, _move_back(model, grown))
                found.append(grown)
                places.append(kept_place(grown, out / str(number), positions))
            left = set(images).difference(*map(_registered, found))
            if found and len(left) >= _MODEL_IMAGES:
                begun = _begin(database, sorted(left), seed, fix_intrinsics)
                gps = local_map(positions) if positions else None
                places += [place_of(model, gps) for model in begun]
                found += begun
        keep_readable(database)
        if not found:
            return [], Growth(removed=removed, remarks=["hardly any photo of the model is left"])
        order = sorted(range(len(found)), key=lambda i: (-found[i].num_reg_images(), -found[i].num_points3D()))
        found, places = [found[i] for i in order], [places[i] for i in order]
        if order[0]:
            remarks.append("another model is now the largest and therefore sparse/0; its frame is a different one")
        there = {name for _, model in kept for name in _registered(model)}
        now = {name for model in found for name in _registered(model)}
        removed |= dict.fromkeys(there - now, UNFIT)
        growth = Growth(sorted(now - there), dict(sorted(removed.items())), moved, remarks)
        note = None if note is None else {**note, "growth": asdict(growth)}
        return write_models(found, images, out, scratch, note, places), growth


def model_folders(out: Path) -> list[Path]:
    """The models `out/0`, `out/1` and so on; none unless all of them are complete."""
    folders = sorted((path for path in out.glob("*") if path.name.isdecimal()), key=lambda path: int(path.name))
    whole = all((folder / f"{part}.bin").is_file() for folder in folders for part in ("cameras", "images", "points3D"))
    return folders if whole else []


def read_models(out: Path, positions: Mapping[str, GpsPosition]) -> list[Model]:
    """The numbers of the models `out/0`, `out/1` and so on.

    positions: of their images, by GPS
    """
    models = [(folder, open_model(folder)) for folder in model_folders(out)]
    return [describe(model, kept_place(model, folder, positions)) for folder, model in models]


def _registered(model: pycolmap.Reconstruction) -> set[str]:
    return {model.image(image_id).name for image_id in model.reg_image_ids()}


def _why_not_worth_growing(
    models: Sequence[pycolmap.Reconstruction], made_of: set[str], database: pycolmap.Database
) -> str | None:
    """Why models would hand down their mistakes: a poor start stays one, however many images join it.

    made_of: names of the images that they were made from; empty if unknown
    """
    registered = {name for model in models for name in _registered(model)}
    if max((model.num_reg_images() for model in models), default=0) < _MODEL_IMAGES:
        return "the model has only two photos"
    ids = {image.image_id: image.name for image in database.read_all_images()}
    could = registered | (made_of & {ids[number] for number in _linked(database, set(ids))})
    if 2 * len(registered) < len(could):
        return f"the model has only {len(registered)} of the {len(could)} photos that it was made from and that match"
    return None


def _remove_stale(model: pycolmap.Reconstruction, database: pycolmap.Database, fix_intrinsics: bool) -> dict[str, str]:
    """Deregister images that are no longer the same in the database; returns the reasons by name."""
    there = {image.name: image for image in database.read_all_images()}
    removed = {}
    for image_id in model.reg_image_ids():
        image = model.image(image_id)
        if image.name not in there:
            removed[image.name] = GONE
            continue
        _check_ids(image, there[image.name])
        keypoints = np.array([point.xy for point in image.points2D]).reshape(-1, 2)
        if np.array_equal(keypoints, database.read_keypoints(image_id)[:, :2]):
            _check_camera(image, model.camera(image.camera_id), database.read_camera(image.camera_id), fix_intrinsics)
        else:
            removed[image.name] = CHANGED
    staying = {image_id for image_id in model.reg_image_ids() if model.image(image_id).name not in removed}
    linked = _linked(database, staying)
    removed |= {model.image(image_id).name: UNLINKED for image_id in staying - linked}
    for name in removed:
        image = model.find_image_with_name(name)
        if model.frame(image.frame_id).has_pose():
            model.deregister_frame(image.frame_id)
    return removed


def _check_ids(image: pycolmap.Image, now: pycolmap.Image) -> None:
    if (now.image_id, now.camera_id, now.frame_id) != (image.image_id, image.camera_id, image.frame_id):
        raise ColmapError(
            f"the database has another id than the model for {image.name!r} or its camera, so new photos cannot join "
            f"the model; map from scratch with {option('remap', True)}"
        )


def _check_camera(image: pycolmap.Image, camera: pycolmap.Camera, known: pycolmap.Camera, fix_intrinsics: bool) -> None:
    if camera.model != known.model or (fix_intrinsics and not np.array_equal(camera.params, known.params)):
        raise ColmapError(
            f"the model was made with another camera of {image.name} ({camera.model_name} there, {known.model_name} "
            f"now); map from scratch with {option('remap', True)}"
        )


def _linked(database: pycolmap.Database, images: set[int]) -> set[int]:
    """The images that have a verified pair with another of these images."""
    found: set[int] = set()
    for pair_id, inliers in zip(*database.read_two_view_geometry_num_inliers(), strict=True):
        pair = set(pycolmap.pair_id_to_image_pair(pair_id))
        if inliers and pair <= images:
            found |= pair
    return found


def _without_the_removed(
    model: pycolmap.Reconstruction, database: pycolmap.Database, folder: Path
) -> pycolmap.Reconstruction:
    """The registered part of a model, also written to a folder; mapping reads the rest from the database."""
    folder.mkdir()
    model.write(folder)
    kept = pycolmap.Reconstruction(folder)
    rigs = {kept.frame(frame_id).rig_id for frame_id in kept.reg_frame_ids()}
    cameras = {kept.image(image_id).camera_id for image_id in kept.reg_image_ids()}
    for rig_id in set(kept.rigs) - rigs:
        del kept.rigs[rig_id]
    for camera_id in set(kept.cameras) - cameras:
        del kept.cameras[camera_id]
    kept.write(folder)
    return kept


def _continue(
    database: Path, model: pycolmap.Reconstruction, names: Sequence[str], scratch: Path, seed: int, fix_intrinsics: bool
) -> pycolmap.Reconstruction:
    """The model, with as many more of these images registered as possible."""
    source = scratch / "from"
    source.mkdir(parents=True)
    model.write(source)
    options = incremental_options(seed, fix_intrinsics)
    options.multiple_models = False
    options.load_all_images = True
    options.image_names = list(names)
    found = run_incremental(database, len(names), options, source)
    return found[0] if found else model


def _begin(database: Path, names: Sequence[str], seed: int, fix_intrinsics: bool) -> list[pycolmap.Reconstruction]:
    """New models of images that are in no model."""
    options = incremental_options(seed, fix_intrinsics)
    options.image_names = list(names)
    found = run_incremental(database, len(names), options)
    return [model for model in found.values() if model.num_reg_images() >= _MODEL_IMAGES]


def _keep_point_ids(before: pycolmap.Reconstruction, after: pycolmap.Reconstruction) -> None:
    """Give merged points, which get new ids, the id of the old point that most of their observations belonged to."""
    lost = set(before.point3D_ids()) - set(after.point3D_ids())
    owner = {_key(seen): point_id for point_id in lost for seen in before.point3D(point_id).track.elements}
    for point_id in sorted(set(after.point3D_ids()) - set(before.point3D_ids())):
        point = after.point3D(point_id)
        votes = Counter(owner[key] for key in map(_key, point.track.elements) if owner.get(key) in lost)
        if votes:
            chosen = min(votes, key=lambda old: (-votes[old], old))
            lost.remove(chosen)
            copy = pycolmap.Point3D(point.todict())
            after.delete_point3D(point_id)
            after.add_point3D_with_id(chosen, copy)


def _key(seen: pycolmap.TrackElement) -> tuple[int, int]:
    return seen.image_id, seen.point2D_idx


def _move_back(before: pycolmap.Reconstruction, after: pycolmap.Reconstruction) -> float:
    """Move a model back to its former frame and scale, by its former images; returns `Growth.moved`.

    The rotation is the mean over the cameras, which is also defined if they are in a line; scale and translation are
    the least-squares ones of the camera centres.
    """
    common = set(before.reg_image_ids()) & set(after.reg_image_ids())
    poses = [[model.image(number).cam_from_world() for number in sorted(common)] for model in (after, before)]
    if not common:
        return 0.0
    product = sum(old.rotation.matrix().T @ new.rotation.matrix() for new, old in zip(*poses, strict=True))
    U, _, Vt = np.linalg.svd(np.asarray(product))
    R = U @ np.diag([1, 1, np.linalg.det(U @ Vt)]) @ Vt
    new, old = (np.stack([pose.inverse().translation for pose in group]) for group in poses)
    turned = (new - new.mean(0)) @ R.T
    spread = (turned**2).sum()
    scale = float((turned * (old - old.mean(0))).sum() / spread) if spread > 0 else 1.0
    scale = scale if scale > 0 else 1.0
    shift = old.mean(0) - scale * R @ new.mean(0)
    after.transform(pycolmap.Sim3d(scale, pycolmap.Rotation3d(R), shift))
    off = np.linalg.norm(scale * new @ R.T + shift - old, axis=1).max()
    size = np.linalg.norm(np.ptp(old, axis=0))
    return float(off / size) if size > 0 else 0.0
