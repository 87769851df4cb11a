from __future__ import annotations

from pathlib import Path

import pytest
from made_features import make_artifacts


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    return make_artifacts(tmp_path / "artifacts")
