"""Files of the user: read with a one-line error, written whole or not at all."""

import json
import secrets
from pathlib import Path
from typing import Any

from .errors import SpecError


def read_text(path: Path) -> str:
    """Read one text file in UTF-8. Devices are refused: some never end.

    Raises:
        SpecError: the file is missing, unreadable or not text.
    """
    try:
        if path.is_char_device() or path.is_block_device():
            raise SpecError(f"{path}: is a device, not a file")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path}: is not a text file in UTF-8") from None


def read_json(path: Path) -> Any:
    """Read one JSON file; NaN and Infinity are refused, as JSON has neither.

    Raises:
        SpecError: the file is missing, unreadable or not JSON.
    """
    text = read_text(path)
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (json.JSONDecodeError, RecursionError) as error:
        detail = (
            f"{error.msg} at line {error.lineno} column {error.colno}"
            if isinstance(error, json.JSONDecodeError)
            else "nested too deep"
        )
        raise SpecError(f"{path}: is not valid JSON ({detail}); is the file complete?") from None
    except ValueError as error:
        raise SpecError(f"{path}: {error}") from None


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all; an existing file is replaced only by a complete one.

    Raises:
        SpecError: the folder is missing or not writable, or the disk is full.
    """
    partial = path.with_name(
        f".{path.name}.{secrets.token_hex(8)}.partial"
    )  # a random name, under which nobody can place a link
    try:
        with partial.open("x", encoding="utf-8") as file:
            file.write(text)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SpecError(f"{path}: cannot be written ({error.strerror or error})") from None


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"holds {constant}, which is not a JSON number; give a finite number")
