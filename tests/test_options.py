"""Option values as people write them: clear ones are accepted, anything else is refused in one clear line."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import pytest
import torch

from disk.errors import DiskError
from disk.options import Options


@dataclass(frozen=True, kw_only=True)
class Some(Options):
    count: int = 1
    budget: int | Literal["auto"] | None = None
    share: float = 0.5
    flag: bool = False
    name: str = "auto"
    kind: Literal["one", "two"] = "one"
    file: Path | None = None
    several: tuple[float, ...] = ()


@pytest.mark.parametrize(
    ("field", "given", "meant"),
    [
        ("count", np.int64(7), 7),
        ("count", np.array(7), 7),
        ("count", torch.tensor(7), 7),
        ("count", 7.0, 7),
        ("budget", np.float32(7), 7),
        ("budget", "auto", "auto"),
        ("budget", None, None),
        ("share", 1, 1.0),
        ("share", np.float64(0.25), 0.25),
        ("flag", np.bool_(True), True),
        ("flag", 1, True),
        ("name", torch.device("cpu"), "cpu"),
        ("name", Path("a/b.pth"), "a/b.pth"),
        ("kind", np.str_("two"), "two"),
        ("file", "a/b", Path("a/b")),
        ("file", PurePosixPath("a/b"), Path("a/b")),
        ("several", [1, np.float32(0.5)], (1.0, 0.5)),
        ("several", 0.5, (0.5,)),
    ],
)
def test_values_are_taken_as_they_are_meant(field: str, given: Any, meant: Any) -> None:
    options = Some(**{field: given})
    assert getattr(options, field) == meant
    assert type(getattr(options, field)) is type(meant)
    json.dumps(asdict(options), default=str)


@pytest.mark.parametrize(
    ("field", "given", "words"),
    [
        ("count", "7", "count='7': must be a whole number"),
        ("count", 7.5, "count=7.5: must be a whole number"),
        ("count", True, "must be a whole number"),
        ("count", float("nan"), "must be a whole number"),
        ("count", None, "must be a whole number"),
        ("budget", "all", "budget='all': must be a whole number or 'auto' or None"),
        ("share", "0.5", "share='0.5': must be a number"),
        ("share", np.bool_(True), "must be a number"),
        ("flag", "no", "flag='no': must be True or False"),
        ("name", 0, "name=0: must be text"),
        ("kind", "One", "kind='One': must be 'one' or 'two'"),
        ("file", 3, "file=3: must be a path or None"),
        ("several", "0.5", "several='0.5': must be one or several, each a number"),
    ],
)
def test_anything_else_is_refused(field: str, given: Any, words: str) -> None:
    with pytest.raises(DiskError) as caught:
        Some(**{field: given})
    assert words in str(caught.value)


WITHOUT_TYPE_CHECKS = """
from pathlib import Path
import numpy as np, torch
import disk
from disk.errors import DiskError
from disk.evaluation.sources import FeatureOptions
from disk.pipeline.detect import DetectOptions
from disk.pipeline.match_options import MatchOptions
from disk.pipeline.view import view

given = DetectOptions(n=np.int64(512), model_path=Path("w.pth"), mask_dir="masks", device=torch.device("cpu"))
assert given == DetectOptions(n=512, model_path="w.pth", mask_dir=Path("masks"), device="cpu")
assert FeatureOptions(method="sift", features="a").features == (Path("a"),)
model = disk.load(device="cpu")
image = torch.rand(3, 32, 32)
features = model.detect(image, n=np.int64(5))
assert len(features) == 5
for mistake in (
    lambda: DetectOptions(ray=True),
    lambda: DetectOptions(subpixel="no"),
    lambda: MatchOptions(pairs="exhuastive"),
    lambda: disk.load(precision="half"),
    lambda: disk.load(backend="onnxruntime"),
    lambda: disk.load(5),
    lambda: model.detect(image, max_keypoints=5),
    lambda: model.detect(image.to_sparse()),
    lambda: model.detect(image.to("meta")),
    lambda: disk.match(features, features, "0.9"),
    lambda: disk.match([features], features),
    lambda: view("artifacts", "photos", "keypoint"),
    lambda: disk.reconstruct("missing", "model"),
):
    try:
        mistake()
    except DiskError as error:
        print(error)
"""


def test_the_package_accepts_and_refuses_values() -> None:
    # without the tests' type checks, which would fail first
    done = subprocess.run([sys.executable, "-c", WITHOUT_TYPE_CHECKS], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines == [
        "ray=True: must be 'off' or 'auto' or 'local'",
        "subpixel='no': must be True or False",
        "pairs='exhuastive': must be 'exhaustive' or 'sequential' or 'rig' or 'list' or 'retrieval' or 'spatial'",
        "precision='half': must be 'auto' or 'fp32' or 'fp16' or 'bf16'",
        "backend='onnxruntime': must be 'auto' or 'torch' or 'onnx'",
        "name_or_path=5: must be text",
        "detect has no option max_keypoints; it has height, width, max_size, n, window, subpixel, mode",
        *lines[7:9],
        "ratio='0.9': must be a number or None",
        "only the second argument may be a list, of the features of many images",
        "what='keypoint': must be 'page' or 'keypoints' or 'matches'",
        "image folder missing does not exist",
    ]
    assert all("without values, or a sparse one" in line for line in lines[7:9])
