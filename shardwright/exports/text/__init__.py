"""The texts of other frameworks as tables of keys: JSON, TOML, YAML and command lines, and values taken from such a table."""

from .commands import read_flags
from .documents import json_text, read_json_text, read_toml_text, read_yaml_text, toml_text, yaml_text
from .keys import Keys, KnownKeys

__all__ = [
    "Keys",
    "KnownKeys",
    "json_text",
    "read_flags",
    "read_json_text",
    "read_toml_text",
    "read_yaml_text",
    "toml_text",
    "yaml_text",
]
