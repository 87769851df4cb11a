"""The command as a user types it."""

import json

import pytest

from disk.cli.main import main


def test_pose_prints_a_table_and_writes_json(world, tmp_path, capsys):
    arguments = ["evaluate", "pose", str(world.pairs), str(world.images), "--features", str(world.artifacts)]
    code = main([*arguments, "--threshold", "1", "2", "--estimator", "poselib", "--json", str(tmp_path / "f.json")])
    printed = capsys.readouterr().out
    assert code == 0
    assert "AUC@10" in printed
    assert "perfect" in printed
    data = json.loads((tmp_path / "f.json").read_text())
    assert data["options"]["threshold"] == [1, 2]
    assert data["results"][0]["figures"][""]["AUC@10"] > 99.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pose", "{root}/none.txt", "{root}/images"], "none.txt: no such file"),
        (["pose", "{root}/pairs.txt", "{root}/none"], "none: no such image folder"),
        (["pose", "{root}/pairs.txt", "{root}/images", "--features", "{root}/none"], "no features in"),
        (["homography", "{root}"], "contains no sequences"),
        (["imw", "{root}"], "keys-th-0.1.npy"),
        (["reconstruction", "{root}/none"], "does not exist"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(world, capsys, arguments, message):
    code = main(["evaluate", *(word.format(root=world.root) for word in arguments)])
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.startswith(f"disk evaluate {arguments[0]}: ")
    assert error.count("\n") == 1


def test_an_invalid_line_is_named(world, capsys):
    with world.pairs.open("a") as file:
        file.write("v0.png v1.png 0 0\n")
    assert main(["evaluate", "pose", str(world.pairs), str(world.images)]) == 2
    assert "pairs.txt:7: no ground truth" in capsys.readouterr().err
