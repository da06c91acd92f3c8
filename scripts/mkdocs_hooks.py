"""What the site has beside docs/: the first page, commands, reports that it draws itself, and the files that pages link to.

Links stay as the repository needs them, so that pages read well there; here they lead to pages of the site.
"""

import posixpath
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(\]\()([^)#\s:]+)(#[^)\s]*)?(\))")
_FENCED = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)
_LANGUAGES = {".py": "python", ".toml": "toml", ".json": "json", ".js": "javascript", ".md": "markdown"}
_SHOWN = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and one for every file of the repository that a page links to."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    files.append(File.generated(config, "commands.md", content=_commands()))
    linked = set()
    for file in list(files.documentation_pages()):
        home = _home(file.src_uri)
        linked |= {target for target in _targets(file.content_string, home) if _is_source(target)}
    for target in sorted(linked):
        files.append(File.generated(config, _source_page(target), content=_source(target)))
    for name, content in drawn_pages(ROOT / "docs" / "gallery.md").items():
        files.append(File.generated(config, f"gallery/{name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to other files of the repository at their pages here."""
    if page.file.src_uri.startswith("source/"):
        return markdown
    home, here = _home(page.file.src_uri), posixpath.dirname(page.file.src_uri)

    def link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(home, match[2]))
        made = posixpath.relpath(_page_of(target), here or ".")
        return f"{match[1]}{made}{match[3] or ''}{match[4]}"

    drawn = page.file.src_uri == "gallery.md"
    parts = _FENCED.split(markdown)  # code is no link
    return "".join(
        part + (_opened(part) if drawn else "") if part.startswith("```") else _LINK.sub(link, part) for part in parts
    )


def _opened(block: str) -> str:
    """Links to the pages that the commands of a block write."""
    names = re.findall(r"--report (\S+\.html)", block) if block.startswith("```console") else []
    return "".join(f"\n\n[Open {name}](gallery/{name})" for name in names)


def _home(uri: str) -> str:
    """The folder of the repository where a page lies."""
    return "" if uri in (*PAGES.values(), "commands.md") else posixpath.dirname(posixpath.join("docs", uri))


def _targets(markdown: str, home: str) -> set[str]:
    return {
        posixpath.normpath(posixpath.join(home, match[2]))
        for part in _FENCED.split(markdown)
        if not part.startswith("```")
        for match in _LINK.finditer(part)
    }


def _is_source(target: str) -> bool:
    return target not in PAGES and not target.startswith(("docs/", "..")) and (ROOT / target).exists()


def _page_of(target: str) -> str:
    """The page of the site for a path of the repository."""
    if target in PAGES:
        return PAGES[target]
    return _source_page(target) if _is_source(target) else posixpath.relpath(target, "docs")


def _source_page(target: str) -> str:
    return f"source/{target}.md"


def _source(target: str) -> str:
    """A file of the repository as a page, or the names in a folder; the search leaves them out."""
    path, head = ROOT / target, "---\nsearch: {exclude: true}\nhide: [toc]\n---\n"
    if path.is_dir():
        names = sorted(one.stem for one in path.iterdir() if one.is_file() and not one.name.startswith("_"))
        return f"{head}# {target}\n\n" + "\n".join(f"- `{name}`" for name in names) + "\n"
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return head + _LINK.sub(lambda match: match[0][1 : match[0].index("]") + 1], text)
    return f"{head}# {target}\n\n````{_LANGUAGES.get(path.suffix, 'text')}\n{text}````\n"


def _commands() -> str:
    """Every command with its options, as typer writes them from the code."""
    made = _run([sys.executable, "-m", "typer", "shardwright.cli", "utils", "docs", "--name", "shardwright"], ROOT)
    return made.replace("# `shardwright`", "# Commands", 1)


def drawn_pages(page: Path) -> dict[str, str]:
    """Run the commands that the page shows, in one folder; return the HTML pages that they wrote, by name."""
    with tempfile.TemporaryDirectory() as folder:
        for block in _SHOWN.findall(page.read_text(encoding="utf-8")):
            for line in block.replace("\\\n", " ").split("\n"):
                if line.startswith("$ shardwright "):
                    _run([sys.executable, "-m", *shlex.split(line[2:])], Path(folder))
        return {path.name: path.read_text(encoding="utf-8") for path in sorted(Path(folder).glob("*.html"))}


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} ended with {done.returncode}: {done.stderr}")
    return done.stdout
