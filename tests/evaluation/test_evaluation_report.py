import json
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path

import pytest
from PIL import Image

from disk.errors import DiskError, EvaluationError
from disk.evaluation.report import Report, Result, as_json, check_outputs, plot_curves, write_report


@dataclass(frozen=True)
class Options:
    threshold: tuple[float, ...] = (1.0, 2.0)
    cache: Path | None = Path("kept")


def report() -> Report:
    ours = Result("ours", {"": {"AUC": 12.345, "failures": 3}}, ([0, 1], [0.0, 1.0]), {"errors": [1.0, float("inf")]})
    theirs = Result("theirs", {"": {"AUC": float("nan"), "seconds": None}, "light": {"AUC": 1.0}})
    return Report("a title", [ours, theirs], "a note", {"failures": "d"}, ("x", "y"), {"pairs": [("a", "b")]})


def test_table_json_and_curves(tmp_path, capsys):
    write_report(report(), Options(), tmp_path / "r.json", tmp_path / "r.png")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a title"
    assert lines[-1] == "a note"
    (header,) = [line for line in lines if "ours" in line]
    assert header.index("ours") < header.index("theirs")
    rows = {words[0]: words[1:] for words in (line.replace("│", " ").split() for line in lines) if words}
    assert rows["failures"] == ["3", "-"]
    assert rows["seconds"] == ["-", "-"]
    assert ["AUC", "12.3", "-"] in [line.replace("│", " ").split() for line in lines]
    assert ["AUC", "-", "1.0"] in [line.replace("│", " ").split() for line in lines]
    picture = Image.open(tmp_path / "r.png")
    assert (picture.format, picture.size) == ("PNG", (900, 600))
    # strict JSON: no infinite values, and equal to the plain data
    text = (tmp_path / "r.json").read_text()
    assert "Infinity" not in text
    assert "NaN" not in text
    data = json.loads(text)
    assert data == as_json(report(), Options())
    assert data["results"][0]["errors"] == [1.0, None]
    assert data["results"][1]["figures"][""]["AUC"] is None
    assert data["options"] == {"threshold": [1.0, 2.0], "cache": "kept"}
    assert data["pairs"] == [["a", "b"]]


def test_shares_are_plotted_from_0_to_1(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr("disk.viewing.canvas.save", lambda figure, file, dpi: saved.append(figure))
    plot_curves(report(), tmp_path / "r.png")
    (axes,) = saved[0].axes
    assert (axes.get_ylim(), axes.get_xlim()[0]) == ((0, 1), 0)
    assert [line.get_label() for line in axes.lines] == ["ours"]


def test_files_that_could_not_be_written(tmp_path):
    check_outputs(tmp_path / "r.json", tmp_path / "r.PNG")
    with pytest.raises(EvaluationError, match="no such folder"):
        check_outputs(tmp_path / "none" / "r.json", None)
    with pytest.raises(EvaluationError, match=r"must end in \.png"):
        check_outputs(None, tmp_path / "r.txt")


def test_outputs_that_would_replace_other_files_are_refused_before_the_work(tmp_path):
    (tmp_path / "folder.json").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    for json_file, plot, words in (
        (tmp_path / "folder.json", None, "it is a folder"),
        (tmp_path / "photo.png", None, r"does not end in \.json"),
        (None, tmp_path / "photo.png", "was not drawn by this program"),
    ):
        with pytest.raises(DiskError, match=words):
            check_outputs(json_file, plot)


def test_titles_and_notes_are_printed_unchanged_one_per_line(capsys):
    title, note = "pairs of " + "scene, " * 40, "[bold] is a folder; " + "a word " * 40
    write_report(Report(title, [Result("ours", {"": {"AUC": 1.0}})], note), Options(), None, None)
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0].rstrip(), lines[-1].rstrip()) == (title.rstrip(), note.rstrip())


def test_reports_are_frozen():
    for record in (report(), report().results[0]):
        with pytest.raises(FrozenInstanceError):
            record.label = "another"
