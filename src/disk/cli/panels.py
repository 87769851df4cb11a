"""The layout of a command's help: options in panels by topic, with their types and defaults.

tyro makes the parser, with one panel per nested record. The options of a stage are one flat record, so they are split
into one record per topic for tyro and put together again afterwards.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, is_dataclass, make_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

from disk.cli.mistakes import Argument

# topic -> options, for all commands; options not listed here are in the command's main panel
TOPICS = {
    "image": ("max_size", "height", "width", "rotations", "image_extension", "mask_dir", "images", "fps", "frames"),
    "feature": (
        "n", "method", "weights", "features", "window", "subpixel", "mode", "model_path", "desc_dim", "f16",
        "detection_scores",
    ),
    "pair": ("pairs", "overlap", "loops", "pairs_file", "top_k", "max_distance"),
    "matching": ("matcher", "matcher_weights", "rt", "ratio", "save_threshold", "max_error", "min_inliers", "u16"),
    "camera": ("camera_model", "camera_per", "single_camera", "camera_params", "cameras", "camera", "focal_length"),
    "mapping": ("mapper", "remap", "fix_intrinsics", "rig", "rig_config", "gps", "seed"),
    "estimation": ("threshold", "estimator", "runs"),
    "computing": (
        "device", "precision", "backend", "ray", "batch_size", "workers", "cache_mb", "max_full_matrix", "renderers",
        "compile",
    ),
    "reward": ("reward", "original_reward", "reward_threshold", "schedule", "keypoint_penalty", "keypoint_share"),
    "training data": (
        "synthesize", "synthetic_share", "views", "augment", "train_scene_limit", "test_scene_limit",
    ),
    "training": (
        "n_epochs", "chunk_size", "substep", "warmup", "epoch_offset", "lr", "lr_schedule", "lr_warmup", "lr_final",
        "average",
    ),
}  # fmt: skip
_TOPIC_OF = {name: topic for topic, names in TOPICS.items() for name in names}
_FEW = 8  # up to this many options need no panels
_LEAST = 3  # minimum number of options in a panel
_WORDS = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH"}


@dataclass(frozen=True)
class _Panel:
    """Base of the records made for each topic."""


def arranged(
    command: Callable[..., Any], switches_both_ways: bool = False
) -> tuple[Callable[..., Callable[[], Any]], list[Argument]]:
    """Wrap a command for tyro, with the fields of its record `options` in panels by topic; also list its arguments.

    Any other record becomes a panel named after its parameter. Calling the wrapper builds the records and binds the
    command to them, without running it.
    switches_both_ways: also give switches that are off by default a --no- twin
    """
    # not by get_type_hints: in Python 3.10 it makes `Positional[...] = None` an option
    hints: dict[str, Any] = inspect.get_annotations(command, eval_str=True)
    hints.pop("return", None)
    parameters, arguments = [], list[Argument]()
    for name, parameter in inspect.signature(command).parameters.items():
        record, default = hints[name], parameter.default
        if not is_dataclass(record):
            parameters.append(_keyword(name, _explained(name, record, default, None, switches_both_ways), default))
            arguments.append(_argument(name, record, default, switches_both_ways))
            continue
        inside = get_type_hints(record, include_extras=True)
        for each in fields(record):
            arguments.append(_argument(each.name, inside[each.name], getattr(default, each.name), switches_both_ways))
        for topic, options in _topics(name, [each.name for each in fields(record)]).items():
            flags = list(_flags(record, default, options, switches_both_ways))
            if not topic:
                parameters += flags
                continue
            members: Any = [(flag.name, flag.annotation, field(default=flag.default)) for flag in flags]
            panel: Any = make_dataclass("Panel", members, bases=(_Panel,), frozen=True)
            panel.__doc__ = ""  # otherwise tyro shows it
            title = Annotated[panel, tyro.conf.arg(name=topic)]
            parameters.append(_keyword(f"panel {topic}".replace(" ", "_"), title, panel()))

    def call(**values: Any) -> Callable[[], Any]:
        for key in [key for key, value in values.items() if isinstance(value, _Panel)]:
            values |= vars(values.pop(key))
        for name, kind in hints.items():
            if is_dataclass(kind):
                values[name] = kind(**{each.name: values.pop(each.name) for each in fields(kind)})  # type: ignore[operator]
        return partial(command, **values)

    parameters.sort(key=lambda parameter: parameter.default is not inspect.Parameter.empty)
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    # tyro would keep the line breaks within the text of an argument
    call.__doc__ = re.sub(r"\n {8,}", " ", inspect.cleandoc(command.__doc__ or ""))
    vars(call).pop("__wrapped__", None)  # set by decorators such as a type checker; it has the old signature
    return call, arguments


def documentation(record: type) -> dict[str, str]:
    """The docstring below each field of a record, including inherited fields."""
    found: dict[str, str] = {}
    for kind in reversed(record.__mro__):
        if not is_dataclass(kind):
            continue
        [tree] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(tree, ast.ClassDef)
        for before, after in zip(tree.body, tree.body[1:], strict=False):
            if isinstance(before, ast.AnnAssign) and isinstance(before.target, ast.Name):
                match after:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        found[before.target.id] = " ".join(text.split())
    return found


def _flags(record: Any, default: Any, options: Iterable[str], both_ways: bool) -> Iterable[inspect.Parameter]:
    hints, about = get_type_hints(record, include_extras=True), documentation(record)
    for name in options:
        value = getattr(default, name)
        yield _keyword(name, _explained(name, hints[name], value, about.get(name), both_ways), value)


def _keyword(name: str, hint: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=hint, default=default)


def _topics(name: str, options: list[str]) -> dict[str, list[str]]:
    """Options by topic, in the order of TOPICS; under "" those without a topic, or of too small a panel."""
    if name != "options":
        return {name.replace("_", " "): options}
    if len(options) <= _FEW:
        return {"": options}
    topics = {topic: [each for each in listed if each in options] for topic, listed in TOPICS.items()}
    topics = {topic: some for topic, some in topics.items() if len(some) >= _LEAST}
    return {"": [each for each in options if _TOPIC_OF.get(each) not in topics], **topics}


def _explained(name: str, hint: Any, default: Any, about: str | None, both_ways: bool) -> Any:
    """The type of a flag or positional argument, annotated with its metavar, help and default."""
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if kind is bool:
        # a switch that is on by default gets both flags: the help of x beside `--no-x` alone would read inverted
        one_way = [] if default or both_ways else get_args(tyro.conf.FlagCreatePairsOff[bool])[1:]
        words = "(default: on)" if default else ""
        return _annotated(kind, tyro.conf.arg(help=about, help_behavior_hint=words), *one_way, *extras)
    metavar = _place(name, kind, default) if tyro.conf.Positional in extras else _metavar(kind, default)
    words = _in_words(default)
    # annotations from the argument's declaration come last, so they take precedence
    return _annotated(kind, tyro.conf.arg(help=about, metavar=metavar, help_behavior_hint=words), *extras)


def _argument(name: str, hint: Any, default: Any, both_ways: bool) -> Argument:
    """The argument that tyro makes of what `_explained` returns."""
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    positional, several = tyro.conf.Positional in extras, get_origin(kind) in (tuple, list)
    declared: Any = next((extra for extra in extras if isinstance(extra, type(tyro.conf.arg()))), tyro.conf.arg())
    flag = (declared.name or name).replace("_", "-")
    if positional:
        names: tuple[str, ...] = (declared.metavar or _place(name, kind, default),)
    elif kind is bool and (default or both_ways):
        names = f"--{flag}", f"--no-{flag}"
    else:
        names = (f"--{flag}",)
    return Argument(names, get_args(kind)[0] if several else kind, default, positional, several)


def _place(name: str, kind: Any, default: Any) -> str:
    """A positional argument in the usage: `IMAGES`, `LOGS ...`, `{depth,epipolar}`, `[IMAGES]`."""
    metavar = _metavar(kind, default)
    if not metavar.startswith("{"):
        metavar = name.upper().replace("_", "-") + (" ..." if metavar.endswith("...") else "")
    return metavar if default is inspect.Parameter.empty else f"[{metavar}]"


def _annotated(kind: Any, *about: Any) -> Any:
    form: Any = Annotated  # hides the subscript from type checkers, which expect types in it
    parts = (kind, *about)
    return form[parts]


def _metavar(kind: Any, default: Any = "") -> str:
    """`INT`, `PATH`, `{mnn,lightglue}`, `INT|auto`, `TEXT ...`; None is shown only if it is not the default."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _metavar(inner[0], default)
    if origin is Literal:
        return "{" + ",".join(map(str, inner)) + "}"
    if origin in (Union, types.UnionType):
        names = [_metavar(one) for one in inner if one is not type(None) and not (one is int and float in inner)]
        if type(None) in inner and default is not None:
            names.append("None")
        return "|".join(one if "," in one else one.strip("{}") for one in names)
    if origin in (tuple, list):
        return f"{_metavar(inner[0])} ..."
    return _WORDS.get(kind, getattr(kind, "__name__", "VALUE").upper())


def _in_words(default: Any) -> str:
    """`(default: 5)`; empty for an unset option, whose help says what happens."""
    if default is inspect.Parameter.empty:
        return "(required)"
    if default is None or default == () or default == []:
        return ""
    return f"(default: {' '.join(map(str, default)) if isinstance(default, tuple | list) else default})"
