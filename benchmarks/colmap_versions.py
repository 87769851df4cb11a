"""Checks that every COLMAP release from 3.8 on can open an exported database, verify it and map it.

    disk export model/artifacts photos/ --database-path database.db
    python benchmarks/colmap_versions.py database.db photos/

Each release of pycolmap is installed into its own environment in --environments and works on a copy of the database.
The `colmap` binary is also tested if it is installed. Prints one row per release; the exit code is 1 if one fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VERSIONS = ("3.10.0", "3.11.1", "3.12.6", "3.13.0", "4.0.4", "4.1.1", "4.2.1")
# run by each release; these calls exist in all of them
STEPS = """
import json, sys
import pycolmap

database, images, out = sys.argv[1:]
pycolmap.logging.minloglevel = 3
pycolmap.match_exhaustive(database)  # the matches are already there: this only verifies
models = pycolmap.incremental_mapping(database, images, out)
best = max(models.values(), key=lambda model: model.num_reg_images())
print(json.dumps([best.num_reg_images(), best.num_points3D(), best.compute_mean_reprojection_error()]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database", type=Path, help="database written by `disk export`")
    parser.add_argument("images", type=Path, help="folder of the images")
    parser.add_argument("--versions", nargs="+", default=VERSIONS, help="releases of pycolmap to test")
    parser.add_argument("--environments", type=Path, help="folder to install them in; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        environments = options.environments or Path(temporary)
        results = {}
        if shutil.which("colmap"):
            results["colmap"] = by_binary(options.database, options.images, Path(temporary))
        for version in options.versions:
            python = environment(environments / version, version)
            results[f"pycolmap {version}"] = by_python(python, options.database, options.images, Path(temporary))
    print("| | images | points | error (px) |\n|---|---|---|---|")
    for name, found in results.items():
        cells = found if isinstance(found, str) else f"{found[0]:.0f} | {found[1]:.0f} | {found[2]:.3f}"
        print(f"| {name} | {cells} |")
    return int(any(isinstance(found, str) for found in results.values()))


def environment(folder: Path, version: str) -> Path:
    """The Python of an environment with this release; creates the environment if necessary."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        packages = [f"pycolmap=={version}", "numpy"]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    return python


def by_python(python: Path, database: Path, images: Path, temporary: Path) -> list[float] | str:
    """Registered images, points and reprojection error, or an error message."""
    folder = Path(tempfile.mkdtemp(dir=temporary))
    copy = shutil.copy(database, folder / "database.db")
    command = [str(python), "-c", STEPS, str(copy), str(images), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return f"failed: {done.stderr.strip().splitlines()[-1]}"
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def by_binary(database: Path, images: Path, temporary: Path) -> list[float] | str:
    """The same with the `colmap` binary, as in the README of the original DISK."""
    folder = Path(tempfile.mkdtemp(dir=temporary))
    copy = str(shutil.copy(database, folder / "database.db"))
    (folder / "sparse").mkdir()
    model = str(folder / "sparse" / "0")
    commands = [
        ["exhaustive_matcher", "--database_path", copy, "--SiftMatching.use_gpu", "0"],
        ["mapper", "--database_path", copy, "--image_path", str(images), "--output_path", str(folder / "sparse")],
        ["model_analyzer", "--path", model],
    ]
    output = ""
    for command in commands:
        environ = os.environ | {"QT_QPA_PLATFORM": "offscreen"}
        done = subprocess.run(["colmap", *command], capture_output=True, text=True, check=False, env=environ)
        output = done.stdout + done.stderr
        if done.returncode:
            return f"failed: colmap {command[0]}: {output.strip().splitlines()[-1]}"
    words = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in output.splitlines()}
    return [float(words[key].removesuffix("px")) for key in ("Registered images", "Points", "Mean reprojection error")]


if __name__ == "__main__":
    sys.exit(main())
