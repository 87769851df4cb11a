"""The pages are short, their links resolve, and the notebook runs from top to bottom."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_pages_are_short(page: Path) -> None:
    assert len(page.read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.slow
def test_the_notebook_runs() -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("cv2")
    notebook = nbformat.read(ROOT / "docs/features.ipynb", as_version=4)
    nbclient.NotebookClient(notebook, timeout=300).execute()
    printed = "".join(str(cell.get("outputs", "")) for cell in notebook.cells)
    correct, of = map(int, re.findall(r"ratio 0.92: (\d+) of (\d+)", printed)[0])
    assert correct / of > 0.85
