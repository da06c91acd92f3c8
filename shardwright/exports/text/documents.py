"""Nested documents (JSON, TOML, YAML) as flat tables with dotted keys, and back."""

import json
import tomllib
from collections.abc import Mapping
from typing import Any

import yaml

from shardwright.base import SpecError


def flattened(document: Any, source: str, prefix: str = "") -> dict[str, Any]:
    """Return a nested document by dotted keys. Lists, and tables without keys, are values.

    Raises:
        SpecError: the document is no table.
    """
    if not isinstance(document, dict):
        raise SpecError(f"{source}: holds no table of settings")
    flat: dict[str, Any] = {}
    for key, value in document.items():
        name = f"{prefix}{key}"
        flat |= flattened(value, source, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys as a nested document."""
    document: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, name = key.split(".")
        place = document
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return document


def json_text(flat: Mapping[str, Any]) -> str:
    return json.dumps(nested(flat), indent=2) + "\n"


def yaml_text(flat: Mapping[str, Any], *comments: str) -> str:
    head = "".join(f"# {comment}\n" for comment in comments)
    return head + str(yaml.safe_dump(nested(flat), sort_keys=False, width=120))


def toml_text(flat: Mapping[str, Any], *comments: str) -> str:
    """Return keys as TOML. JSON's texts, numbers, booleans and lists are TOML's, too."""
    sections: dict[str, list[str]] = {}
    for key, value in flat.items():
        section, _, name = key.rpartition(".")
        sections.setdefault(section, []).append(f"{name} = {json.dumps(value)}")
    head = [f"# {comment}" for comment in comments]
    blocks = [[f"[{section}]", *lines] if section else lines for section, lines in sections.items()]
    return "\n\n".join("\n".join(block) for block in [*([head] if head else []), *blocks]) + "\n"


def read_json_text(text: str, source: str) -> dict[str, Any]:
    """Raises: SpecError: the text is no JSON table."""
    try:
        return flattened(json.loads(text), source)
    except json.JSONDecodeError as error:
        raise SpecError(f"{source}: is no valid JSON: {error.msg} in line {error.lineno}") from None
    except RecursionError:
        raise SpecError(f"{source}: is nested too deep") from None


def read_toml_text(text: str, source: str) -> dict[str, Any]:
    """Raises: SpecError: the text is no TOML."""
    try:
        return flattened(tomllib.loads(text), source)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{source}: is no valid TOML: {error}") from None
    except RecursionError:
        raise SpecError(f"{source}: is nested too deep") from None


def read_yaml_text(text: str, source: str) -> dict[str, Any]:
    """Raises: SpecError: the text is no YAML table."""
    try:
        return flattened(yaml.safe_load(text), source)
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f" in line {line + 1}" if line is not None else ""
        raise SpecError(f"{source}: is no valid YAML{where}: {getattr(error, 'problem', None) or error}") from None
    except (RecursionError, ValueError) as error:
        raise SpecError(f"{source}: is no valid YAML: {error}") from None
