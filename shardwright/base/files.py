"""Files of the user: read with a one-line error, written whole or not at all."""

import json
import os
import secrets
from pathlib import Path
from typing import Any

from .errors import SpecError
from .partial_folders import PARTIAL
from .plain import check_values


def read_text(path: Path) -> str:
    """Read one text file in UTF-8. Devices, pipes and sockets are refused: some never end.

    Raises:
        SpecError: the file is missing, unreadable, no plain file or not text.
    """
    try:
        if path.exists() and not path.is_dir() and not path.is_file():
            raise SpecError(f"{path}: is a device, pipe or socket, not a plain file")
        with open(path, encoding="utf-8", opener=_without_waiting) as file:
            return file.read()
    except (OSError, TypeError) as error:  # a read that would wait gives None, which the decoder refuses
        reason = error.strerror or error if isinstance(error, OSError) else "it has nothing to read yet"
        raise SpecError(f"{path}: cannot be read ({reason})") from None
    except UnicodeDecodeError:
        raise SpecError(f"{path}: is not a text file in UTF-8") from None


def read_json(path: Path) -> Any:
    """Read one JSON file; NaN and Infinity are refused, as JSON has neither, and what `check_values` refuses.

    Raises:
        SpecError: the file is missing, unreadable or not JSON, or holds a value that no file holds.
    """
    text = read_text(path)
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
    except (json.JSONDecodeError, RecursionError) as error:
        detail = (
            f"{error.msg} at line {error.lineno} column {error.colno}"
            if isinstance(error, json.JSONDecodeError)
            else "nested too deep"
        )
        raise SpecError(f"{path}: is not valid JSON ({detail}); is the file complete?") from None
    except ValueError as error:
        raise SpecError(f"{path}: {error}") from None
    check_values(data, str(path))
    return data


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all; an existing file is replaced only by a complete one.

    Raises:
        SpecError: the folder is missing or not writable, or the disk is full.
    """
    partial = path.with_name(
        f".{path.name}.{secrets.token_hex(8)}{PARTIAL}"
    )  # a random name, under which nobody can place a link
    try:
        with partial.open("x", encoding="utf-8") as file:
            file.write(text)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SpecError(f"{path}: cannot be written ({error.strerror or error})") from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"holds {constant}, which is not a JSON number; give a finite number")
