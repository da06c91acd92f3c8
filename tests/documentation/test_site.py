"""The site: built strictly, complete, and readable without a network. `scripts/test` builds it and says where."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shardwright
from tests.reports.chromium import Page, browser, page

from .shown import ROOT

PAGES = ("index", "tutorial", "how-to/offload", "formulas", "python", "commands", "gallery", "exports")
_FETCHED = re.compile(
    r"""<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=["']?(?:https?:)?//[^"'>\s]*|@import[^;]*//|url\(["']?(?:https?:)?//"""
)


def build(to: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(to), *options]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the site needs the extra docs: pip install '.[docs]'")
    if built := os.environ.get("SHARDWRIGHT_SITE"):
        return Path(built)
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


def fetched(folder: Path) -> list[str]:
    """What pages and styles would fetch from the network."""
    return [
        f"{path.relative_to(folder)}: {found}"
        for path in (*folder.rglob("*.html"), *folder.rglob("*.css"))
        for found in _FETCHED.findall(path.read_text(encoding="utf-8"))
        if 'rel="canonical"' not in found
    ]


def test_nothing_is_fetched(site: Path, tmp_path: Path) -> None:
    assert fetched(site) == []
    (tmp_path / "a.html").write_text(
        '<link rel="stylesheet" href="https://fonts.example/css"><script src=//cdn.example/x.js>'
    )
    (tmp_path / "a.css").write_text("@font-face { src: url(https://fonts.example/a.woff2) }")
    assert len(fetched(tmp_path)) == 3  # control


FAULTS = {
    "[a](absent.md)": "absent.md",
    "[a](#absent)": "#absent",
    "[a](other.md#absent)": "other.md#absent",
    "::: shardwright.absent": "shardwright.absent",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_link_fails_the_build(fault: str, tmp_path: Path) -> None:
    """Control: the site's own settings, with one page that has a fault."""
    pytest.importorskip("mkdocs")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Title\n\n{fault}\n")
    (tmp_path / "docs" / "other.md").write_text("# Other\n")
    own = "hooks: []\nnav: []\nextra_css: []\nnot_in_nav: '*'\nplugins: [autorefs, mkdocstrings]\n"
    (tmp_path / "mkdocs.yml").write_text(f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\n{own}")
    done = build(tmp_path / "site", "--config-file", str(tmp_path / "mkdocs.yml"))
    assert done.returncode != 0
    assert FAULTS[fault] in done.stderr


def test_every_public_name_is_on_the_page_of_python() -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    shown = dict(reversed(one.rsplit(".", 1)) for one in re.findall(r"^::: (\S+)$", text, re.MULTILINE))
    assert sorted(shown) == sorted(shardwright.__all__)
    for name, module in shown.items():
        found = getattr(importlib.import_module(module), name)
        assert found is getattr(shardwright, name)
        assert inspect.getdoc(found)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    browser()
    with page(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_pages_are_readable_at_a_desk_and_on_a_phone(tab: Page, site: Path, width: int, dark: bool) -> None:
    tab.open(site / "index.html")
    tab.evaluate("localStorage.clear()")  # the theme keeps the colours that it showed last
    for name in PAGES:
        tab.open(site / f"{name}.html", width=width, dark=dark)
        assert tab.problems == [], name
        assert tab.overflow() <= 0, name
        light = tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert light is not dark, name


def test_the_search_finds_a_page_without_a_server(tab: Page, site: Path) -> None:
    tab.open(site / "index.html")
    tab.evaluate("document.querySelector('label[for=__search]').click()")
    tab.evaluate(
        "(field => { field.focus(); field.value = 'bubble'; field.dispatchEvent(new Event('input', {bubbles: true}));"
        " field.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true})); })(document.querySelector('.md-search__input'))"
    )
    tab.until("document.querySelectorAll('.md-search-result__link').length > 0")
    assert tab.evaluate("document.querySelector('.md-search-result__link').href").startswith("file:")
    assert tab.problems == []
