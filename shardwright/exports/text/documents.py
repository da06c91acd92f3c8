"""Nested documents (JSON, TOML, YAML) as flat tables with dotted keys, and back."""

import json
import tomllib
from collections.abc import Callable, Mapping
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
    return flattened(_parsed(text, source, "JSON", json.loads), source)


def read_toml_text(text: str, source: str) -> dict[str, Any]:
    """Raises: SpecError: the text is no TOML."""
    return flattened(_parsed(text, source, "TOML", tomllib.loads), source)


def read_yaml_text(text: str, source: str) -> dict[str, Any]:
    """Raises: SpecError: the text is no YAML table."""
    return flattened(_parsed(text, source, "YAML", yaml.safe_load), source)


def _parsed(text: str, source: str, form: str, parse: Callable[[str], Any]) -> Any:
    """
    Raises:
        SpecError: the text is not in that form.
    """
    try:
        return parse(text)
    except json.JSONDecodeError as error:
        why = f"{error.msg} in line {error.lineno}"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        why = f"{getattr(error, 'problem', None) or error}{f' in line {mark.line + 1}' if mark else ''}"
    except tomllib.TOMLDecodeError as error:
        why = str(error)
    except RecursionError:
        why = "it is nested too deep"
    except ValueError:
        why = "it holds a number of thousands of digits, or a date that is none"
    raise SpecError(f"{source}: is no valid {form}: {why}")
