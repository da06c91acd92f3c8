"""A model from the user's reference: a preset's name, a config.json, or a folder that holds one."""

import json
import os
import re
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from shardwright.base import SpecError, nearest, read_json
from shardwright.specs.model import ModelSpec

from .families import model_from_config

_SUFFIX = ".json"
_CONFIG_FILE = "config.json"
_MOST_LISTED = 12
_SLIP = 0.85
_NUMBER = re.compile(r"[0-9]+[a-z]*")
_TUNED = re.compile(r"-(instruct|chat|base|it|pt|hf)$")  # endings of the same architecture and size


def preset_names() -> tuple[str, ...]:
    """Return the names of the models in the package, in alphabetical order."""
    return tuple(sorted(_presets()))


def load_model(reference: str) -> ModelSpec:
    """Return the model that `reference` names.

    A reference with a path separator, or one that ends in `.json`, is a path: to a file, or to a folder that holds a
    config.json. Any other is a preset's name, in any case of letters. Where no preset has that name, it is also tried
    as a path. A folder with a preset's name is `./name`.

    Raises:
        SpecError: no such preset or file (the nearest preset is named), or the file is no valid configuration.
    """
    if not reference.strip():
        raise SpecError(f"model is {reference!r}: give a preset's name, a config.json or a folder that holds one")
    looks_like_path = _is_path(reference)
    preset = reference.lower()
    if not looks_like_path and preset in _presets():
        return _load_preset(preset)
    if not os.path.exists(reference):  # unlike Path.exists, this is false for a name that is too long
        what = "no such file or folder" if looks_like_path else "no preset, file or folder has that name"
        raise SpecError(f"model '{reference}': {what}.{_advice(reference)}")
    return _load_path(Path(reference), reference)


def _is_path(reference: str) -> bool:
    separators = (os.sep, os.altsep) if os.altsep else (os.sep,)
    return reference.lower().endswith(_SUFFIX) or any(separator in reference for separator in separators)


def _load_preset(name: str) -> ModelSpec:
    config = json.loads(_presets()[name].read_text(encoding="utf-8"))
    return model_from_config(config, name=name, source=f"preset {name}")


def _load_path(path: Path, reference: str) -> ModelSpec:
    if path.is_dir():
        file = path / _CONFIG_FILE
        if not file.is_file():
            raise SpecError(f"model '{reference}': the folder holds no {_CONFIG_FILE}")
    else:
        file = path
    # A folder is named after its model, but every file in one is named config.json.
    named = file.resolve().parent.name if file.name == _CONFIG_FILE else file.stem
    return model_from_config(read_json(file), name=named or _CONFIG_FILE, source=str(file))


def _advice(reference: str) -> str:
    """Return the preset that was likely meant, also for the name of a repository such as meta-llama/Llama-3.1-70B."""
    meant = Path(reference).name.lower().removesuffix(_SUFFIX)
    longer = [name for name in preset_names() if meant and name.startswith(meant)]
    if len(longer) == 1:
        return f" Did you mean '{longer[0]}'?"
    if 1 < len(longer) <= _MOST_LISTED:
        return f" Did you mean one of {', '.join(longer)}?"
    if (plain := _TUNED.sub("", meant)) in _presets():
        return f" Did you mean '{plain}'?"
    # A typing error changes a word; another number means another model. Words that are only vaguely alike name other
    # models.
    same_numbers = [name for name in preset_names() if _NUMBER.findall(name) == _NUMBER.findall(meant)]
    examples = ", ".join(f"'{name}'" for name in ("llama-3.1-70b", "gpt3-175b", "mixtral-8x7b"))
    return nearest(meant, same_numbers, cutoff=_SLIP) or f" There are {len(_presets())} presets, {examples} among them."


@cache
def _presets() -> dict[str, Traversable]:
    folder = resources.files("shardwright.catalog") / "presets"
    files = [file for file in folder.iterdir() if file.name.endswith(_SUFFIX)]
    return {file.name.removesuffix(_SUFFIX): file for file in files}
