"""The commands that the documentation shows: in blocks, and in the text."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((ROOT / "docs").rglob("*.md"))
LANGUAGES = {"console", "bash", "text", "python", "json", "toml", "yaml"}
PROGRAMS = "shardwright|python3?|bash|pip|torchrun|srun|sbatch|scancel|mkdocs|ruff|mypy|lint-imports|scripts/[a-z-]+"
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_NAMED = re.compile(r"`[\w.]+`:\s*$")  # what names the block that follows as a file
_SPAN = re.compile(r"`((?:" + PROGRAMS + r") [^`]+)`")
_BEGINS = re.compile(rf"(?:\$ )?(?:{PROGRAMS})\b")


class Shown(NamedTuple):
    """A command as a page has it. `whole`: one to type as it stands, not part of a sentence."""

    page: str
    line: int
    text: str
    whole: bool

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {self.text}"


class Block(NamedTuple):
    """A fenced block. `is_file`: the page names it as a file."""

    line: int
    language: str
    text: str
    is_file: bool


def blocks(page: str) -> list[Block]:
    """Fenced blocks of a page's text, in order."""
    return [
        Block(page.count("\n", 0, found.start()) + 1, found[1], found[2], bool(_NAMED.search(page[: found.start()])))
        for found in _FENCE.finditer(page)
    ]


def commands(name: str, page: str) -> list[Shown]:
    """Every command of a page's text: lines after `$ `, lines of bash blocks, and spans that begin with a program's name."""
    found = []
    for block in blocks(page):
        joined = block.text.replace("\\\n", " ")
        if block.language == "console":
            lines = re.findall(r"^\$ ([^\n]*)", joined, re.MULTILINE)
        elif block.language == "bash" and not block.is_file:
            lines = [line for line in (re.split(r"(?:^|\s)#", one)[0].strip() for one in joined.split("\n")) if line]
        else:
            lines = []
        found += [Shown(name, block.line, part.strip(), True) for line in lines for part in line.split("&&")]
    text = _FENCE.sub(lambda block: "\n" * block[0].count("\n"), page)
    found += [Shown(name, text.count("\n", 0, span.start()) + 1, span[1], False) for span in _SPAN.finditer(text)]
    return found


def escapes(page: str) -> list[str]:
    """What could be a command and is read as none: blocks without a language, and lines of output that begin like a command."""
    found = []
    for block in blocks(page):
        if block.language not in LANGUAGES:
            found.append(f"line {block.line}: a block of {block.language or 'no language'}")
        elif block.language == "console" and not block.text.startswith("$ "):
            found.append(f"line {block.line}: a block of commands that begins with none")
        elif block.language == "text":
            lines = [line for line in block.text.split("\n") if _BEGINS.match(line)]
            found += [f"line {block.line}: {line}" for line in lines]
    return found
