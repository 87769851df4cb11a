"""Mapping a verified database into a sparse model, with a summary of what connects and why not."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from disk.errors import ArtifactError, ColmapError
from disk.images.gps import read_positions
from disk.options import AnyPath, Options, option
from disk.pipeline.cameras import rig_of
from disk.pipeline.connections import Connections, read_connections, why_no_model, why_not
from disk.pipeline.export import files_of_features
from disk.pipeline.gps import remarks_on_place
from disk.pipeline.options import ChosenImages, GpsChoice, MapperChoice, RigChoice, Seed
from disk.pipeline.summary import AGREEMENT, SUMMARY, Reconstruction, is_complete, read_summary, summarize
from disk.pipeline.verify import check_seed
from disk.progress import counted, log
from disk.storage.artifacts import (
    INLIERS,
    artifacts_folder,
    beside,
    default_database,
    read_features,
    read_matches,
)
from disk.storage.download import file_hash
from disk.storage.locks import file_lock
from disk.storage.made_from import made_from
from disk.storage.names import image_name
from disk.storage.new_file import write_json
from disk.storage.shards import check_same

if TYPE_CHECKING:
    from disk.colmap.models import Model

RIG = "rig_config.json"  # COLMAP's name: poses of the cameras in the rig, if they were estimated
_OF_MAPPING = ("mapper", "seed", "fix_intrinsics")  # options recorded by `made_from`


@dataclass(frozen=True, kw_only=True)
class MapOptions(Seed, GpsChoice, MapperChoice, RigChoice, ChosenImages, Options):
    """How to map verified pairs."""

    database_path: Path | None = None
    """Database that `disk verify` has verified; default: database.db beside ARTIFACTS."""
    output: Path | None = None
    """Folder for sparse/, points.ply and summary.json; default: the parent folder of ARTIFACTS."""
    overwrite: bool = False
    """Map from scratch, as --remap, and replace even a model made by another program."""


def map_models(
    artifacts: AnyPath, images: AnyPath, options: MapOptions = MapOptions(), pairs_file: Path | None = None
) -> Reconstruction:
    """Map a verified database into OUT/sparse/0 (the largest model), OUT/points.ply and OUT/summary.json.

    Keeps a model that is current. Updates a model of other images: registers new images, removes those that are gone
    or changed.
    pairs_file: the list of pairs, if there was one, for the message if it does not connect

    Raises ArtifactError without inliers, if a model by another program would be replaced, or one made with other
    options without `remap`; ColmapError if no model can be made; ImageError if an image is missing or has changed.
    """
    from disk.colmap.growing import grow_models, model_folders, read_models
    from disk.colmap.mapping import NoModelError, map_images
    from disk.colmap.models import put_back, write_ply
    from disk.colmap.priors import local_map, write_priors
    from disk.colmap.rigs import write_rig

    check_seed(options.seed)
    artifacts, images = artifacts_folder(artifacts), Path(images)
    out = options.output or beside(artifacts)
    database = options.database_path or default_database(artifacts)
    sparse, summary = out / "sparse", out / SUMMARY
    with read_features(artifacts) as features:
        found = files_of_features(features, images, options.image_extension)
    files = {file.relative: file.path for file in found}
    positions, faults = read_positions(found) if options.gps == "auto" else ({}, None)
    rig = rig_of(found, options)
    with file_lock(sparse):
        put_back(sparse)
        made_of = {
            "made of": database_fingerprint(artifacts, database),
            "mapper": options.mapper,
            "seed": options.seed,
            "fix_intrinsics": options.fix_intrinsics,
            "rig": _rig_fingerprint(options),
            "gps": "",
        }
        if positions:
            made_of["gps"] = hashlib.sha256(repr(sorted(positions.items())).encode()).hexdigest()[:16]
        if not options.overwrite and sparse.exists() and not (made_from(sparse) or summary.exists()):
            raise ArtifactError(
                f"{sparse} was made by another program; choose a different {option('output')}, "
                f"or use {option('overwrite', True)}"
            )
        folders = [] if options.remap or options.overwrite else model_folders(sparse)
        # not recorded by earlier versions
        unnoted: dict[str, Any] = {"fix_intrinsics": options.fix_intrinsics, "rig": "", "gps": ""}
        noted = unnoted | made_from(sparse) if folders else {}
        same = bool(folders) and noted == noted | made_of
        if same and is_complete(out):
            log.info("%s is complete", sparse)
            return read_summary(out)
        if "poses" in noted:
            raise ArtifactError(
                f"{sparse} has the known poses of `disk triangulate`, which mapping would move; choose another "
                f"{option('output')}, {remap_remedy()}"
            )
        if "mapper" in noted:
            then, now = (
                {key: str(note[key]) for key in _OF_MAPPING} | {"rig": str(bool(note["rig"]))}
                for note in (noted, made_of)
            )
            if noted["gps"] and options.gps == "off":
                then["gps"], now["gps"] = "auto", "off"
            check_same(sparse, then, now, remap_remedy())
        if folders and rig is not None and not same:
            log.warning("a model of a rig cannot be extended: mapping from scratch")
            folders = []
        connections = read_connections(artifacts, database)
        for path in (summary, out / AGREEMENT):
            path.unlink(missing_ok=True)
        if rig is not None and not rig.is_known:
            (out / RIG).unlink(missing_ok=True)
        start = perf_counter()
        if not connections.inliers:
            _drop(out)
            raise ColmapError(why_no_model(connections, pairs_file))
        write_priors(database, positions)
        gps = local_map(positions) if positions else None
        new = sorted(set(files) - set(noted.get("images", files)))
        note = made_of | {"images": sorted(files)}
        seed, fixed = options.seed, options.fix_intrinsics
        models: list[Model] = []
        growth: dict[str, Any] = {}
        try:
            if same:
                models = read_models(sparse, positions)
                new, growth = noted.get("new", []), noted.get("growth", {})
            elif folders:
                models, grown = grow_models(database, files, sparse, seed, note | {"new": new}, fixed, positions)
                growth = asdict(grown)
                if not models:
                    log.warning("%s: %s; mapping from scratch", sparse, grown.remarks[0])
            if not models:
                new, growth = [], {}
                models = map_images(database, files, sparse, options.mapper, seed, note, fixed, rig, gps)
        except NoModelError:
            _drop(out)
            raise ColmapError(f"no model could be made: {why_no_model(connections, pairs_file)}") from None
        write_ply(sparse / "0", out / "points.ply")
        largest = models[0]
        if rig is not None and not rig.is_known and largest.rig:
            write_rig(out / RIG, largest.rig)
        registered = set(map(image_name, largest.images))
        reasons = {
            name: why_not(connections, image_name(name), registered)
            for name in sorted(set(files) - set(largest.images))
        }
        result = replace(
            summarize(models, len(files), images, connections, reasons, {"map": perf_counter() - start}),
            remarks=[
                *_remarks(connections, registered),
                *_remark_of_rig(options, largest),
                *growth.get("remarks", []),
                *filter(None, [faults]),
                *remarks_on_place(largest, gps),
            ],
            georegistration=asdict(largest.georegistration) if largest.georegistration else None,
            new=new,
            added=growth.get("added", []),
            removed=growth.get("removed", {}),
            moved=growth.get("moved"),
        )
        write_json(summary, asdict(result))
    return result


def remap_remedy() -> str:
    """The advice for a model made with other mapping options."""
    return f"or map from scratch with {option('remap', True)}, which keeps features and matches"


def _remarks(connections: Connections, registered: Collection[str]) -> list[str]:
    remarks = [connections.mostly_turning] if connections.mostly_turning else []
    if connections.watermarks:
        remarks.append(
            f"{counted(len(connections.watermarks), 'pair')} with only a watermark in common, such as a date stamp or "
            "a frame: not used"
        )
    if len(registered) == 2:
        remarks.append("the model has only two photos: its focal lengths are guesses; add a third photo")
    return remarks


def _rig_fingerprint(options: RigChoice) -> str:
    if not options.rig:
        return ""
    return "found" if options.rig_config is None else file_hash(options.rig_config, "sha256")[:16]


def _remark_of_rig(options: RigChoice, largest: Model) -> list[str]:
    if not options.rig or largest.rig:
        return []
    return ["the rig was not used: its cameras do not connect at any instant, or are not rigid; see the log"]


def database_fingerprint(artifacts: Path, database: Path) -> str:
    """The fingerprint of everything that determines a model: images, cameras, keypoints and inliers.

    Raises ColmapError if the database does not belong to the artifacts or is not verified.
    """
    from disk.colmap.database import difference, fingerprint, open_database

    with (
        read_features(artifacts) as features,
        read_matches(artifacts) as matches,
        read_matches(artifacts, INLIERS) as inliers,
        open_database(database) as opened,
    ):
        other = difference(opened, features, matches)
        if other:
            raise ColmapError(
                f"{database} is not an up-to-date export of {artifacts} ({other}); run `disk export --overwrite` and "
                "`disk verify` again"
            )
        if opened.num_verified_image_pairs() < len(inliers.pairs()):
            raise ColmapError(f"{database} is not verified; run `disk verify`")
        digest = hashlib.sha256(fingerprint(opened).encode())
        for name in features.names:
            digest.update(name.encode() + features.keypoints(name).tobytes())
        for pair in inliers.pairs():
            digest.update("|".join(pair).encode() + inliers[pair].tobytes())
    return digest.hexdigest()[:16]


def _drop(out: Path) -> None:
    """Delete the model of an earlier run, which is out of date."""
    shutil.rmtree(out / "sparse", ignore_errors=True)
    (out / "points.ply").unlink(missing_ok=True)
