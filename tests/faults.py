"""The faults of mutation testing: which are put where."""

from __future__ import annotations

import ast
import difflib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator

PROJECT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Room:
    """Which modules of a room are mutated, how many mutants of each are tried, and which of its tests notice them."""

    each: int
    modules: tuple[str, ...] = ("*",)
    tests: tuple[str, ...] = ("*",)


_TRAINING = ("loss", "step", "loop", "state", "validation", "schedule", "network", "fused", "distributed")
ROOMS = {
    "rewards": Room(40),
    "geometry": Room(40),
    "training": Room(20, _TRAINING, (*_TRAINING[:-1], "devices", "step_parts")),
    "matching": Room(20),
    "evaluation": Room(12),
}
OPERATORS = [
    "NumberReplacer", "AddNot", "RemoveDecorator", "ExceptionReplacer", "ZeroIterationForLoop",
    *(f"Replace{one}With{two}" for one, two in (
        ("True", "False"), ("False", "True"), ("And", "Or"), ("Or", "And"), ("Break", "Continue"),
        ("Continue", "Break"))),
    *(f"ReplaceUnaryOperator_Delete_{name}" for name in ("Not", "USub", "Invert")),
    *(f"ReplaceBinaryOperator_{change}" for change in (
        "Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul", "Mod_FloorDiv", "Pow_Mul",
        "BitAnd_BitOr", "BitOr_BitAnd", "LShift_RShift", "RShift_LShift")),
    *(f"ReplaceComparisonOperator_{change}" for change in (
        "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt", "Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt", "Eq_NotEq", "NotEq_Eq",
        "Is_IsNot", "IsNot_Is")),
]  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A fault: a line `before` and `after`. outcome: untried, killed, time-out, survived or not run."""

    room: str
    module: str
    line: int
    operator: str
    occurrence: int
    before: str
    after: str
    outcome: str = "untried"
    by: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """Identifies the fault even if its line has moved."""
        return self.module, self.before, self.after


def modules(room: str) -> list[Path]:
    """The files of a room that are mutated."""
    folder = PROJECT / "src" / "disk" / room
    found = (file for pattern in ROOMS[room].modules for file in folder.glob(f"{pattern}.py"))
    return sorted(file for file in found if file.stem != "__init__")


def mutants_of(room: str, file: Path, each: int) -> Iterator[Mutant]:
    """A sample of at most `each` faults of a file, always the same, none in messages or annotations."""
    source = file.read_text()
    name = str(file.relative_to(PROJECT))
    left_out = list(_left_out(ast.parse(source)))
    found = []
    nodes = list(ast_nodes(get_ast(source)))
    for operator in OPERATORS:
        positions = [p[0] for node in nodes for p in get_operator(f"core/{operator}")().mutation_positions(node)]
        found += [
            (operator, occurrence, position[0])
            for occurrence, position in enumerate(positions)
            if not any(begin <= position < end for begin, end in left_out)
        ]
    random.Random(name).shuffle(found)
    for operator, occurrence, line in sorted(found[:each]):
        try:
            mutated = mutate_code(source, get_operator(f"core/{operator}")(), occurrence)
        except AttributeError:  # of `except zipfile.BadZipFile`, whose name has two parts
            continue
        changes = list(difflib.ndiff(source.splitlines(), mutated.splitlines()))
        before, after = ("\n".join(c[2:].strip() for c in changes if c.startswith(sign)) for sign in "-+")
        if before != after:
            yield Mutant(room, name, line, operator, occurrence, before, after)


def _left_out(tree: ast.AST) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where no faults are put: messages, and annotations, which have no effect at run time."""
    for node in ast.walk(tree):
        log = isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log.")
        if log or isinstance(node, (ast.Raise, ast.JoinedStr)):
            yield (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)
        for field in ("annotation", "returns"):
            inner = getattr(node, field, None)
            if isinstance(inner, ast.AST):
                yield (inner.lineno, inner.col_offset), (inner.end_lineno, inner.end_col_offset)


def faulty_source(mutant: Mutant) -> str:
    """The source of the mutant's module, with its fault."""
    source = (PROJECT / mutant.module).read_text()
    return str(mutate_code(source, get_operator(f"core/{mutant.operator}")(), mutant.occurrence))
