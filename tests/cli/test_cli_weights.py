"""`disk weights`."""

import pytest
import torch

import disk
from disk.cli.main import main
from disk.model.disk import DISK


def test_list_says_what_is_here(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DISK_HOME", str(tmp_path))
    assert main(["weights", "list"]) == 0
    out = capsys.readouterr().out
    assert "ships with the package" in out
    assert "disk weights fetch epipolar" in out


def test_convert_there_and_back(tmp_path, capsys):
    torch.manual_seed(5)
    original = DISK().state_dict()
    torch.save({"disk": original}, tmp_path / "training.pth")
    assert main(["weights", "convert", str(tmp_path / "training.pth"), str(tmp_path / "a.safetensors")]) == 0
    assert main(["weights", "convert", str(tmp_path / "a.safetensors"), str(tmp_path / "b.pth")]) == 0
    released = torch.load(tmp_path / "b.pth", weights_only=True)["extractor"]
    assert all(torch.equal(released[k], v) for k, v in original.items())
    assert all(torch.equal(disk.load(tmp_path / "a.safetensors").state_dict()[k], v) for k, v in original.items())
    assert main(["weights", "convert", "default", str(tmp_path / "b.pth")]) == 2
    assert "already exists" in capsys.readouterr().err
    assert main(["weights", "convert", "default", str(tmp_path / "nowhere" / "b.pth")]) == 2
    assert "No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--for", "opencv", "--graph", "match"], "drop --graph match"),
        (["--graph", "dense", "--n", "100"], "have no effect"),
        (["--ratio", "0.9"], "--ratio is for --graph match"),
        (["--window", "4"], "--window 4: must be odd"),
        (["--n", "0"], "--n 0: must be at least 1"),
    ],
)
def test_exports_that_make_no_sense_are_refused_before_any_work(tmp_path, capsys, flags, words):
    target = tmp_path / "disk.onnx"
    assert main(["weights", "export-onnx", "default", str(target), *flags]) == 2
    assert words in capsys.readouterr().err
    target.touch()
    assert main(["weights", "export-onnx", "default", str(target)]) == 2
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "writer"),
    [
        ([], "export_detector"),
        (["--n", "None", "--no-subpixel"], "export_detector"),
        (["--graph", "match", "--ratio", "0.9"], "export_pair"),
        (["--for", "opencv"], "export_for_opencv"),
        (["--graph", "dense"], "export_dense"),
    ],
)
def test_each_kind_of_graph_has_its_writer(tmp_path, monkeypatch, flags, writer):
    """The written files are tested in tests/model."""
    from disk.model.onnx import export

    calls = []
    for name in ("export_detector", "export_pair", "export_for_opencv", "export_dense"):
        monkeypatch.setattr(export, name, lambda model, path, *options, name=name: calls.append((name, options)))
    assert main(["weights", "export-onnx", "default", str(tmp_path / "disk.onnx"), *flags]) == 0
    ((name, options),) = calls
    assert name == writer
    if "None" in flags:
        assert (options[0].n, options[0].subpixel) == (None, False)
