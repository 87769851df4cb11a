"""`disk weights`."""

import torch

import disk
from disk.cli.main import main
from disk.model.disk import DISK


def test_list_says_what_is_here(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("DISK_CACHE", str(tmp_path))
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
    assert "exists already" in capsys.readouterr().err
    assert main(["weights", "convert", "default", str(tmp_path / "nowhere" / "b.pth")]) == 2
    assert "No such file or directory" in capsys.readouterr().err
