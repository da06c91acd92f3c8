"""Pages show what their commands print, and the tour what its cells give. The gallery's commands are run where the site is built."""

import os
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / name))


PAGES = [
    page
    for page in script("examples")["PAGES"]
    if "```console" in page.read_text(encoding="utf-8") and page.stem != "gallery"
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_shows_what_is_printed(page: Path) -> None:
    """After a change that it shows: scripts/examples --write."""
    assert script("examples")["main"]([page], write=False) == 0


def test_an_other_output_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ shardwright --version\nshardwright 99\n```\n")
    here, examples = os.getcwd(), script("examples")["main"]
    assert examples([page], write=True) == 1
    assert examples([page], write=False) == 0
    assert os.getcwd() == here


def test_a_command_without_output_must_end_well(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ shardwright --version\n```\n")
    assert script("examples")["main"]([page], write=False) == 0
    page.write_text("```console\n$ shardwright explain absent.json\n```\n")
    assert script("examples")["main"]([page], write=False) == 1


def test_the_tour() -> None:
    """After a change that it shows: scripts/notebook docs/tour.ipynb."""
    assert script("notebook")["main"](ROOT / "docs" / "tour.ipynb", check=True) == 0
