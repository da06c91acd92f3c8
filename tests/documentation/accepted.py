"""Whether a command that a page shows would be accepted: its words are parsed as the program parses them, and nothing runs."""

import re
import shlex
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from shardwright.base import SpecError
from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import load_model
from shardwright.cli import app

from .shown import ROOT, Shown

_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
_OTHERS = {"sbatch", "scancel", "ruff", "mypy", "lint-imports", "mkdocs", "source"}


def problem(shown: Shown) -> str | None:
    """What is wrong with a command, None where nothing is."""
    words = shlex.split(re.sub(r"[<>|]\s*\S+.*$", "", shown.text))
    while words and _ASSIGNMENT.fullmatch(words[0]):
        words = words[1:]
    program, *rest = words
    if program == "shardwright":
        return _shardwright(rest, whole=shown.whole)
    if program in ("torchrun", "srun"):
        return _launched(rest, whole=shown.whole)
    if program in ("python", "python3"):
        return _python(rest)
    if program == "pip":
        return _pip(rest)
    if program == "bash" or program.startswith("scripts/"):
        script = rest[0] if program == "bash" else program
        return None if (ROOT / script).is_file() else f"there is no {script}"
    return None if program in _OTHERS else f"{program} is no program that this test knows"


def _shardwright(words: list[str], *, whole: bool) -> str | None:
    command: Any = typer.main.get_command(app)
    context = command.make_context("shardwright", [], resilient_parsing=True)
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name, *words = words
        if name not in command.commands:
            return None if not whole and name.isupper() else f"no command {name} of {command.name}"
        command = command.commands[name]
        context = command.make_context(name, list(words), parent=context, resilient_parsing=True)
    if not whole:
        return _option_names(command, words)
    if "..." in words:
        return "stands for itself and has an ellipsis"
    try:
        parsed = command.make_context(command.name, list(words), parent=context.parent)
    except Exception as error:  # typer carries a click of its own, whose errors are public in neither
        return f"{type(error).__name__}: {error}"
    return _known_names(parsed.params)


def _option_names(command: Any, words: list[str]) -> str | None:
    """The first option that the command does not have; what follows -- goes to another command."""
    own = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    given = words[: words.index("--")] if "--" in words else words
    unknown = [word for word in given if word.startswith("--") and word.split("=")[0] not in own]
    return f"{command.name} has no {unknown[0]}" if unknown else None


def _known_names(params: dict[str, Any]) -> str | None:
    """Presets and clusters by name are those of the catalog; files are the reader's own."""
    try:
        model, cluster = params.get("model"), params.get("cluster")
        if isinstance(model, str) and "/" not in model and not model.endswith(".json"):
            load_model(model)
        if isinstance(cluster, str) and not cluster.endswith(".toml") and not cluster.startswith("local"):
            load_cluster(cluster)
    except SpecError as error:
        return str(error)
    return None


def _launched(words: list[str], *, whole: bool) -> str | None:
    """A launcher in front of shardwright, or of a script of another framework."""
    if "shardwright" not in words:
        return None if any(word.endswith(".py") for word in words) else "starts nothing of ours and no script"
    return _shardwright(words[words.index("shardwright") + 1 :], whole=whole)


def _python(words: list[str]) -> str | None:
    if not words:
        return None
    if words[:1] != ["-m"]:
        return f"python {words[0]} is no module"
    module, *rest = words[1:]
    if module == "pytest":
        missing = [word for word in rest if word.startswith("tests/") and not (ROOT / word).exists()]
        return f"there is no {missing[0]}" if missing else None
    if module in ("venv", "http.server", "pip"):
        return None
    found = find_spec(module)
    if found is None or found.origin is None:
        return f"there is no module {module}"
    main = find_spec(f"{module}.__main__") if found.submodule_search_locations else found
    if main is None or main.origin is None:
        return f"{module} cannot be run"
    code = Path(main.origin).read_text(encoding="utf-8")
    if main is found and "__main__" not in code:
        return f"{module} cannot be run"
    unknown = [word for word in rest if word.startswith("--") and f'"{word}"' not in code]
    return f"{module} has no {unknown[0]}" if unknown else None


def _pip(words: list[str]) -> str | None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    asked = [name for word in words for group in re.findall(r"^\.\[(.+)\]", word) for name in group.split(",")]
    unknown = [name for name in asked if name not in extras]
    return f"there is no extra {unknown[0]}" if unknown else None
