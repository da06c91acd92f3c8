"""The first page shows what its command prints, and the tour what its cells give. The other pages: scripts/examples docs/*.md."""

import runpy
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / name))


def test_the_first_page() -> None:
    """After a change that it shows: scripts/examples README.md --write."""
    assert script("examples")["main"]([ROOT / "README.md"], write=False) == 0


def test_an_other_output_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```\n$ shardwright --version\nshardwright 99\n```\n")
    examples = script("examples")["main"]
    assert examples([page], write=True) == 1
    assert examples([page], write=False) == 0


def test_the_tour() -> None:
    """After a change that it shows: scripts/notebook docs/tour.ipynb."""
    assert script("notebook")["main"](ROOT / "docs" / "tour.ipynb", check=True) == 0
