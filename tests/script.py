"""Scripts of the repository that are no modules of the package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from unittest.mock import patch


def load_script(path: str) -> ModuleType:
    """Load a script as a module of its own, without running it; `path` is relative to the repository."""
    name = "script_" + path.removesuffix(".py").replace("/", "_")
    file = Path(__file__).parents[1] / path
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    with patch.object(sys, "path", [str(file.parent), *sys.path]):  # for the modules beside it
        spec.loader.exec_module(module)
    return module
