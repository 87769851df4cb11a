"""`disk doctor`: diagnosing this machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from disk.cli.app import AsJson, print_json, run
from disk.pipeline.doctor import Diagnosis, Machine, SelfCheck, examine
from disk.pipeline.libraries import Extra
from disk.progress import counted

# tasks of `fastest` in the words of users; --json has the times
_TASKS = {"layers up to an eighth": "coarse layers of the network", "products": "matrix products"}


def doctor(json: AsJson = False) -> int:
    """Report what works on this machine and what to install for the rest.

    Prints libraries, device, precision, memory and the fastest implementations, and checks the result of a detection
    and matching. Exit code 0 if these work, 1 if not.
    """
    found = examine()
    if json:
        print_json(found)
    else:
        for what, about in _lines(found):
            print(f"{what:<12} {about}".rstrip())
    return 0 if found.healthy else 1


def _lines(found: Diagnosis) -> Iterator[tuple[str, str]]:
    yield "disk", f"{found.version}, Python {found.python}, {found.system}"
    for library in found.libraries:
        yield library.name, _state(library.version, library.problem)
    if found.machine is not None:
        yield from _machine(found.machine)
    yield "", ""
    for extra in found.extras:
        yield f"[{extra.name}]", _extra(extra)
    yield "", ""
    if found.problem:
        yield "problem", found.problem
    if found.check is not None:
        yield "self-check", _check(found.check)
    yield "result", "detection and matching work" if found.healthy else "detection and matching DO NOT WORK"


def _machine(machine: Machine) -> Iterator[tuple[str, str]]:
    yield "CUDA", machine.cuda or "none"
    yield "device", f"{machine.device}: {machine.why}"
    for gpu in machine.gpus:
        yield "", gpu
    cores, threads = counted(machine.cores, "core"), counted(machine.threads, "thread")
    yield "CPU", f"{machine.cpu}; {cores} usable, torch uses {threads}"
    yield "", f"{' '.join(machine.instructions) or 'instructions unknown'}; torch uses {machine.torch_uses}"
    half = " and ".join(machine.half) or "none, it is emulated"
    yield "precision", f"auto uses {machine.precision}; half precision in hardware: {half}"
    yield "Triton", machine.triton
    free, whole = (None if amount is None else f"{amount:.1f}" for amount in machine.memory)
    yield "memory", f"{free or '?'} of {whole or '?'} GiB free"
    winners: dict[str, Counter[str]] = {}
    for task, figures in machine.faster.items():
        winners.setdefault(task.split(",")[0], Counter())[min(figures, key=lambda way: figures[way])] += 1
    for i, (task, ways) in enumerate(sorted(winners.items())):
        said = ", ".join(f"{way} in {count} of {ways.total()}" for way, count in ways.most_common())
        yield "" if i else "fastest", f"{_TASKS.get(task, task)}: {said} measurements"


def _extra(extra: Extra) -> str:
    states = [f"{one.name} {_state(one.version, one.problem)}" for one in extra.libraries]
    if extra.name == "all":
        states = ["all of the above"]
    elif extra.includes:
        states.append(f"all of {' and '.join(f'[{name}]' for name in extra.includes)}")
    state = ", ".join(states)
    return state if extra.install is None else f"{state}; run: {extra.install}"


def _state(version: str | None, problem: str | None) -> str:
    if version is None:
        return "not installed"
    return f"{version} DOES NOT WORK ({problem})" if problem else version


def _check(check: SelfCheck) -> str:
    if check.problem and not check.seconds:
        return check.problem
    took = ", ".join(f"{what} {1000 * seconds:.0f} ms" for what, seconds in check.seconds.items())
    said = f"{check.keypoints} keypoints in two images, {check.matches} matches, {100 * check.correct:.0f} % correct"
    return f"{said}, by {check.backend}: {took}" + (f"; {check.problem}" if check.problem else "")


def main(argv: list[str]) -> int:
    return int(run(doctor, argv, "doctor", "disk doctor --json"))
