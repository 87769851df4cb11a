"""`disk doctor` reports what works, even if a broken library would end the process."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import disk
from disk.cli import doctor as command
from disk.cli.main import main
from disk.errors import OPTIONAL
from disk.pipeline import doctor, libraries
from disk.pipeline.doctor import examine
from disk.pipeline.libraries import Library

ROOT = Path(__file__).parents[2]


def make_module(folder, name, code):
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(code, encoding="utf-8")


@pytest.fixture
def modules(monkeypatch, tmp_path):
    """A function that creates modules, which are the only ones besides Python's own."""

    def make(**codes):
        monkeypatch.setattr(libraries, "BASE", {})
        monkeypatch.setattr(libraries, "OPTIONAL", {name: (name, "extra") for name in codes})
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.syspath_prepend(str(tmp_path))
        for name, code in codes.items():
            if code is not None:
                make_module(tmp_path, name, code)
        return libraries.import_each(codes)

    return make


def test_libraries_that_are_missing_broken_or_deadly(modules):
    found = modules(
        fine_lib="print('hello'); __version__ = '1.2'",
        missing_lib=None,
        broken_lib="raise ImportError('libcudart.so.12: cannot open\\nshared object file')",
        deadly_lib="import os; os._exit(9)",
        exiting_lib="raise SystemExit(3)",
        last_lib="import sys; print('{\"not\": ours}', file=sys.__stdout__); __version__ = 3",
    )
    assert found == {
        "fine_lib": Library("fine_lib", "1.2"),
        "missing_lib": Library("missing_lib", None),
        "broken_lib": Library("broken_lib", "?", "ImportError: libcudart.so.12: cannot open shared object file"),
        "deadly_lib": Library("deadly_lib", "?", "importing it ends the process with exit code 9"),
        "exiting_lib": Library("exiting_lib", "?", "SystemExit: 3"),
        "last_lib": Library("last_lib", "3"),
    }
    extra = libraries.extras_of(found)[0]
    assert (extra.name, extra.install) == ("extra", "pip install 'disk-features[extra]'")
    extra = libraries.extras_of({**found, **{name: Library(name, "1") for name in found}})[0]
    assert (extra.name, extra.install) == ("extra", None)


def test_a_library_that_hangs_does_not_hang_the_doctor(modules, monkeypatch):
    monkeypatch.setattr(libraries, "_PATIENCE", 2)
    found = modules(early_lib="", hanging_lib="import time; time.sleep(60)", late_lib="")
    assert found["early_lib"].works
    assert found["late_lib"].works
    assert found["hanging_lib"].problem == "importing it takes more than 2 s"


def test_the_self_check_notices_wrong_matches(monkeypatch):
    good = doctor._check()
    assert good.problem is None
    assert good.matches >= 50
    assert good.correct > 0.9
    match = disk.match
    monkeypatch.setattr(disk, "match", lambda a, b: wrong(match(a, b)), raising=False)
    assert doctor._check().problem == "detection runs, but its result is wrong"
    monkeypatch.setattr(disk, "load", lambda name: 1 / 0, raising=False)
    assert doctor._check().problem == "ZeroDivisionError: division by zero"


def wrong(matches):
    """Pair each keypoint of the first image with the partner of another."""
    first, second = matches.indices.unbind(1)
    return replace(matches, indices=torch.stack([first, second.roll(1)], 1))


def broken_environment(tmp_path, *names):
    """All these libraries are installed but cannot be imported."""
    for name in names:
        make_module(tmp_path, name, f"raise ImportError('lib{name}.so: undefined symbol')")
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def run_doctor(environment, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "disk", "doctor", *arguments], capture_output=True, encoding="utf-8", env=environment
    )


def test_with_every_extra_but_cli_broken_the_basics_work(tmp_path):
    others = [name for name, (_, extra) in OPTIONAL.items() if extra != "cli"]
    done = run_doctor(broken_environment(tmp_path, *others, "matplotlib"), "--json")
    said = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    assert said["healthy"]
    assert said["check"]["backend"] == "torch on cpu"
    assert said["machine"]["device"] == "cpu"
    extras = {extra["name"]: extra for extra in said["extras"]}
    assert extras["sfm"]["install"] == "pip install 'disk-features[sfm]'"
    [pycolmap] = [one for one in extras["sfm"]["libraries"] if one["name"] == "pycolmap"]
    assert pycolmap["problem"] == "ImportError: libpycolmap.so: undefined symbol"


def test_without_torch_the_doctor_still_reports(tmp_path):
    others = [name for name, (_, extra) in OPTIONAL.items() if extra != "cli"]
    done = run_doctor(broken_environment(tmp_path, *others, "torch", "matplotlib"))
    assert done.returncode == 1
    assert "problem      torch: ImportError: libtorch.so: undefined symbol" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].split(None, 1) == ["result", "detection and matching DO NOT WORK"]


def test_the_report_names_everything(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "import_each", lambda names: {name: Library(name, "1.0") for name in names})
    found = examine()
    assert found.machine is not None
    assert found.machine.cores >= 1
    assert all(amount is None or amount > 0 for amount in found.machine.memory)
    assert found.machine.faster
    monkeypatch.setattr(command, "examine", lambda: found)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("torch", "CUDA", "device", "CPU", "precision", "Triton", "memory", "fastest", "[sfm]", "self-check"):
        assert re.search(rf"^{re.escape(word)}\s", out, re.MULTILINE), word
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["healthy"] is True


def test_a_broken_driver_is_a_problem_and_no_traceback(monkeypatch):
    monkeypatch.setattr(doctor, "import_each", lambda names: {name: Library(name, "1.0") for name in names})
    monkeypatch.setattr(doctor, "_check", lambda: doctor.SelfCheck(512, 100, 1.0))
    monkeypatch.setattr("disk.devices.choose_device", lambda name: 1 / 0)
    found = examine()
    assert found.problem == "ZeroDivisionError: division by zero"
    assert not found.healthy


@pytest.fixture
def project():
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_every_extra_is_listed_with_all_its_libraries(project):
    listed = {
        extra.name: {*(library.name for library in extra.libraries), *extra.includes}
        for extra in libraries.extras_of({name: Library(which, "1") for name, (which, _) in OPTIONAL.items()})
    }
    declared: dict[str, set[str]] = {}
    for extra, requirements in project["optional-dependencies"].items():
        parts = declared.setdefault(extra, set())
        for requirement in requirements:
            inside = re.fullmatch(r"disk-features\[(.*)\]", requirement)
            parts |= set(inside[1].split(",")) if inside else {re.match(r"[\w.-]+", requirement)[0]}
    assert listed == {extra: parts for extra, parts in declared.items() if extra not in ("dev", "docs")}


def test_an_extra_without_a_library_of_its_own_is_complete_when_its_parts_are(monkeypatch, capsys):
    def lines(missing: str | None) -> dict[str, str]:
        versions = {name: None if name == missing else "1.0" for name in (*libraries.BASE, *OPTIONAL)}
        monkeypatch.setattr(
            doctor, "import_each", lambda names: {name: Library(name, versions[name]) for name in versions}
        )
        monkeypatch.setattr(doctor, "_check", lambda: doctor.SelfCheck(512, 100, 1.0))
        main(["doctor"])
        out = capsys.readouterr().out
        return dict(line.split(None, 1) for line in out.splitlines() if line.startswith("["))

    assert lines(None)["[eval]"] == "all of [sfm] and [baselines]"
    assert lines(None)["[all]"] == "all of the above"
    without = lines("cv2")
    assert without["[eval]"] == "all of [sfm] and [baselines]; run: pip install 'disk-features[eval]'"
    assert without["[all]"] == "all of the above; run: pip install 'disk-features[all]'"
    assert "run:" not in without["[sfm]"]


def test_every_library_of_an_extra_is_known(project):
    declared = {
        (re.match(r"[\w.-]+", requirement)[0], extra)
        for extra, requirements in project["optional-dependencies"].items()
        if extra not in ("all", "dev", "docs")
        for requirement in requirements
        if not requirement.startswith("disk-features[")
    }
    known = set(OPTIONAL.values())
    assert known <= declared
    assert {name for name, _ in declared} == {name for name, _ in known}
    assert {re.match(r"[\w.-]+", one)[0] for one in project["dependencies"]} == set(libraries.BASE.values())


def test_version_names_torch_cuda_and_pycolmap(capsys):
    assert main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["disk-features", "torch", "CUDA", "pycolmap"]
    assert lines[1] == f"torch {version('torch')}"
    assert torch.version.cuda is None or lines[2] == f"CUDA {torch.version.cuda}"
    code = "import sys; from disk.cli.main import main; main(['--version']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
