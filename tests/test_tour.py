"""The tour shows what its cells give today."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_tour(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change that it shows: scripts/notebook docs/tour.ipynb."""
    notebook = runpy.run_path(str(ROOT / "scripts" / "notebook"))
    assert notebook["main"](ROOT / "docs" / "tour.ipynb", check=True) == 0
