"""A wrong input: exit code 2, and nothing is left where the results would have been written."""

import contextlib
import re
from pathlib import Path

import pytest
from made_model import make_output
from PIL import Image

from disk.cli.main import main
from disk.errors import ArtifactError
from disk.images.listing import list_images
from disk.pipeline.precheck import check_readable
from disk.storage.locks import folder_lock

# BAD: each of a missing path, a folder without images, damaged images, and a file that is no video
WITH_BAD = {
    "detect": "detect out BAD",
    "reconstruct": "reconstruct BAD out",
    "frames": "frames BAD out",
    "triangulate-model": "triangulate BAD photos out",
    "triangulate-images": "triangulate model/sparse/0 BAD out",
    "localize-model": "localize BAD photos out",
    "localize-queries": "localize model BAD out",
    "undistort-model": "undistort BAD out",
    "undistort-images": "undistort model out --images BAD",
    "map": "map BAD photos --output out",
    "view-artifacts": "view BAD photos --save out",
    "view-images": "view model BAD matches --save out",
    "match": "match BAD photos/a.png --save out/a.jpg",
    "auc": "auc BAD --plot out/a.png",
    "train-data": "train BAD --save-dir out",
    "train-photos": "train --synthesize BAD --save-dir out --height 64 --width 64",
    "synthesize": "dataset synthesize BAD out",
    "merge": "dataset merge BAD --out out/a.json",
    "import-colmap": "dataset import-colmap BAD --out out",
    "import-colmap-images": "dataset import-colmap model --images BAD --out out",
    "evaluate-pose": "evaluate pose BAD photos --cache out",
    "evaluate-homography": "evaluate homography BAD --cache out",
    "evaluate-imw": "evaluate imw BAD --cache out",
    "evaluate-reconstruction": "evaluate reconstruction photos BAD --out out",
    "convert": "weights convert BAD out/a.pth",
    "export-onnx": "weights export-onnx BAD out/a.onnx",
}
# a wrong option
OTHERS = [
    "detect out photos --model-path none",
    "detect out photos --mask-dir none",
    "reconstruct photos out --model-path none",
    "reconstruct photos out --cameras none",
    "reconstruct photos out --pairs list --pairs-file none",
    "reconstruct photos out --matcher lightglue --matcher-weights none",
    "localize model photos out --matcher lightglue --matcher-weights none",
    "train --save-dir out",
    "train --synthesize photos --save-dir out --load none --height 64 --width 64",
    "demo --output out --model-path none",
    "demo --output out --views 1",
]
BAD = ("none", "text", "broken", "no.mp4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_output(folder, ["a.png", "b.png"], {})
    for name in ("text", "broken"):
        (folder / name).mkdir()
    (folder / "text" / "a.txt").write_text("no photo")
    for name in ("broken/a.png", "broken/b.png", "no.mp4"):
        (folder / name).write_bytes(b"damaged")
    return folder


@pytest.fixture
def leaves_nothing(folder, tmp_path, monkeypatch, capsys):
    def check(command: str) -> None:
        monkeypatch.chdir(folder)
        before = sorted(folder.rglob("*"))
        words = [re.sub(r"^out\b", str(tmp_path / "out"), word) for word in command.split()]
        assert main(words) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith(f"disk {words[0]}")
        assert list(tmp_path.iterdir()) == []
        assert sorted(folder.rglob("*")) == before

    return check


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("command", WITH_BAD)
def test_a_wrong_input_leaves_nothing(leaves_nothing, command, bad):
    leaves_nothing(WITH_BAD[command].replace("BAD", bad))


@pytest.mark.parametrize("command", OTHERS)
def test_a_wrong_option_leaves_nothing(leaves_nothing, command):
    leaves_nothing(command)


def test_a_lock_deletes_only_what_it_made(tmp_path):
    def fail(folder: Path, file: str | None = None) -> None:
        with contextlib.suppress(ArtifactError), folder_lock(folder):
            assert folder.is_dir()
            if file is not None:
                (folder / file).touch()
            raise ArtifactError("wrong input")

    fail(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    fail(tmp_path / "a")
    assert (tmp_path / "a").is_dir()  # was there before
    fail(tmp_path / "b", "result.h5")
    assert (tmp_path / "b" / "result.h5").exists()
    with folder_lock(tmp_path / "c"):
        pass
    assert (tmp_path / "c").is_dir()


def test_one_readable_image_is_enough(tmp_path):
    for name in ("a.png", "c.png"):
        (tmp_path / name).write_bytes(b"damaged")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    check_readable(list_images(tmp_path))
