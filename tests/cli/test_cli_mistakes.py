"""A wrong argument: one line that says what is wrong, in which command, and what to do; exit code 2."""

import shlex
from typing import Literal

import pytest
from tyro.conf import Positional

from disk.cli.app import run
from disk.cli.main import main
from disk.cli.mistakes import first_mistake
from disk.cli.panels import arranged
from disk.errors import DiskError

# the command as typed -> the command that the line names, and what it says
MISTAKES = {
    "detect a b --colour red": ("detect", "no option '--colour'"),
    "detect a b --hieght 3": ("detect", "no option '--hieght'; did you mean '--height'?"),
    "detect a b --max 3": ("detect", "no option '--max'; did you mean '--max-size'?"),
    "detect a b -n 5": ("detect", "no option '-n'; did you mean '--n'?"),
    "detect a b --no-overwrite": ("detect", "no option '--no-overwrite'; did you mean '--overwrite'?"),
    "detect a": ("detect", "IMAGES is missing; the command takes ARTIFACTS IMAGES"),
    "evaluate pose": ("evaluate pose", "PAIRS and IMAGES are missing; the command takes PAIRS IMAGES"),
    "view": ("view", "ARTIFACTS is missing; the command takes ARTIFACTS [IMAGES] [{page,keypoints,matches}]"),
    "detect a b --n": ("detect", "--n needs a value: a whole number, auto or None"),
    "detect a b --mask-dir --n 5": ("detect", "--mask-dir needs a value: a path"),
    "detect a b --n=many": ("detect", "--n many: must be a whole number, auto or None"),
    "detect a b --max_size 10.5": ("detect", "--max-size 10.5: must be a whole number"),
    "frames a b --fps fast": ("frames", "--fps fast: must be a number"),
    "evaluate pose a b --ratio 0.8 high": ("evaluate pose", "--ratio high: must be a number"),
    "detect a b --precision fp8": ("detect", "--precision fp8: must be auto, fp32, fp16 or bf16"),
    "view a b heatmap": ("view", "'heatmap': must be page, keypoints or matches"),
    "weights fetch dpth": ("weights fetch", "'dpth': must be depth or epipolar; did you mean 'depth'?"),
    "weights export-onnx default x --for cv": ("weights export-onnx", "--for cv: must be onnxruntime or opencv"),
    "detect a b c": ("detect", "one argument too many: 'c'; the command takes ARTIFACTS IMAGES"),
    "doctor now": ("doctor", "one argument too many: 'now'; the command takes options only"),
    "detect a b --json=yes": ("detect", "--json is a switch: give it without 'yes'"),
    "detect '' b": ("detect", "ARTIFACTS is empty; give a path"),
    "detect a b --mask-dir=": ("detect", "--mask-dir is empty; give a path"),
    "match a --pairs-file ''": ("match", "--pairs-file is empty; give a path"),
    "detect a b --quiet=1": ("detect", "--quiet is a switch: give it without '1'"),
    "detect a b --help=yes": ("detect", "--help is a switch: give it without 'yes'"),
    "detect a b --mask-dir -m": ("detect", "--mask-dir needs a value: a path; if -m is the value, write --mask-dir=-m"),
    "detect -photos b": ("detect", "no option '-photos'; if it is a path, write ./-photos"),
    # what is right is not called a mistake
    "reconstruct a b --camera-params -1,2 --n many": ("reconstruct", "--n many: must be a whole number, auto or None"),
    "detect -2019,1 b --n many": ("detect", "--n many: must be a whole number, auto or None"),
    "evaluate pose --ratio 0.8 a ''": ("evaluate pose", "IMAGES is empty; give a path"),
    "evaluate pose a --ratio 0.8 ''": ("evaluate pose", "IMAGES is empty; give a path"),
    "weights convert '' a.pth": ("weights convert", "SOURCE is empty; give text"),
}
# those of the first words, where there is no command to ask for help
NO_COMMAND = {
    "detekt a b": ("disk: no command 'detekt'; choose from frames,", "; did you mean 'detect'?"),
    "sharpen a": ("disk: no command 'sharpen'; choose from frames,", "doctor"),
    "dataset chek a": ("disk dataset: no command 'chek'; choose from import-colmap,", "; did you mean 'check'?"),
    "evaluate roc": ("disk evaluate: no command 'roc'; choose from pose, homography,", "reconstruction"),
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_wrong_argument_is_one_line(capsys, typed):
    command, said = MISTAKES[typed]
    assert main(shlex.split(typed)) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"disk {command}: {said} (see disk {command} --help)\n")


@pytest.mark.parametrize("typed", NO_COMMAND)
def test_a_wrong_command_is_one_line(capsys, typed):
    start, end = NO_COMMAND[typed]
    assert main(shlex.split(typed)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(start)
    assert printed.err.endswith(f"{end}\n")
    assert printed.err.count("\n") == 1


def test_an_error_in_a_command_of_a_group_names_both(capsys):
    assert main(["weights", "convert", "none.pth", "b.pth"]) == 2
    assert capsys.readouterr().err.startswith("disk weights convert: none.pth")


def command(numbers: Positional[tuple[int, ...]], rate: float | None = None, fast: bool = False) -> tuple[object, ...]:
    """Do something."""
    return numbers, rate, fast


@pytest.mark.parametrize(
    ("argv", "parsed"),
    [
        (["-1", "2", "--rate", "-inf"], ((-1, 2), float("-inf"), False)),
        (["--rate=None", "--fast", "3"], ((3,), None, True)),
        (["--rate", "1e-3", "--", "4"], ((4,), 1e-3, False)),
    ],
)
def test_what_is_right_has_no_mistake(argv, parsed):
    assert run(command, argv, "try", "disk try") == parsed
    assert first_mistake(arranged(command)[1], argv) is None


def test_a_mistake_that_is_not_understood_is_told_in_the_words_of_tyro(monkeypatch):
    monkeypatch.setattr("disk.cli.app.first_mistake", lambda arguments, argv: None)

    def choose(mode: Positional[Literal["nms", "rng"]]) -> None:
        """Do something."""

    with pytest.raises(DiskError, match=r"^.*invalid choice 'max' .*\(see disk try --help\)$"):
        run(choose, ["max"], "try", "disk try")


def test_errors_of_a_command_are_not_taken_for_wrong_arguments(capsys):
    def fail(mode: Positional[Literal["nms", "rng"]]) -> None:
        """Do something."""
        raise SystemExit(2)

    with pytest.raises(SystemExit):
        run(fail, ["nms"], "try", "disk try")
