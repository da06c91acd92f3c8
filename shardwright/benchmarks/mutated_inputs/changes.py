"""Changes at random: of bytes, JSON, tables, lines of JSON, the header of safetensors, and options."""

import contextlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

WORDS = (
    "", " ", "x", "-1", "0", "1", "2", "3", "7", "1.5", "1e308", "1e-308", "nan", "inf", "10000000000000000000", "9" * 5000, "A" * 5000, "[/]", "[red]x",
    "\x1b[31mred", "a\nb", "$\\frac{$", "\udcff", "\ud800", "../x", "~", "8k", "8M", "1..4", "4..1", "h100-sxm:8", "auto", "tp=8", "uniform:1..0", "%s", "é",
)  # fmt: skip
_NUMBERS = (-1, 0, 1, 2, 3, 7, 1.5, -0.5, 1e-300, 1e300, 1e308, 10**19, 10**29, 10**400, 1e11, True, None)
_HEADER_BYTES = 8
"""Of a safetensors file, before the header: its length, little-endian."""


def damaged(name: str, content: bytes, chance: random.Random) -> bytes:
    """Return the content of a file of that name, changed at one to three places."""
    endings: dict[str, Callable[[bytes, random.Random], bytes]] = {
        ".json": _in_json,
        ".jsonl": _in_a_line,
        ".safetensors": _in_header,
    }
    change = next((change for ending, change in endings.items() if name.endswith(ending)), _in_text)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        content = (_in_bytes if chance.random() < 0.06 else change)(content, chance)
    return content


def with_options(
    arguments: tuple[str, ...], chance: random.Random, *, options: Sequence[str], words: Sequence[str]
) -> tuple[str, ...]:
    """Return a command with one to three words or options changed or added."""
    changed = list(arguments)
    for _ in range(chance.randint(1, 3)):
        kind = chance.random()
        if kind < 0.3:
            changed[chance.randrange(1, len(changed))] = chance.choice(words)
        elif kind < 0.9:
            changed += [chance.choice(options), chance.choice(words)]
        else:
            changed.append(chance.choice((*options, "--what", *words)))
    return tuple(word.replace("\0", "") for word in changed)


def _in_bytes(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(max(1, len(content)))
    changes: tuple[Callable[[], bytes], ...] = (
        lambda: content[:at],
        lambda: content[:at] + bytes([chance.randrange(256)]) + content[at + 1 :],
        lambda: b"\xef\xbb\xbf" + content,
        lambda: content[:at] + b"\0" + content[at:],
        lambda: content * 2,
        lambda: content.decode("utf-8", "replace").encode("utf-16"),
        lambda: b"",
        lambda: b"[" * 100_000,
    )
    return chance.choice(changes)()


def _in_json(content: bytes, chance: random.Random) -> bytes:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return _in_bytes(content, chance)
    found = list(places(document))
    if not found:
        return content
    holder, key = chance.choice(found)
    kind = chance.random()
    if kind < 0.12:
        del holder[key]
    elif kind < 0.2 and isinstance(holder, dict):
        holder[chance.choice((*WORDS, key.upper()))] = holder.pop(key)
    elif kind < 0.28:
        other, place = chance.choice(found)
        with contextlib.suppress(KeyError, IndexError):
            holder[key] = json.loads(json.dumps(other[place]))
    elif kind < 0.34 and isinstance(holder[key], list):
        holder[key] = holder[key] * chance.choice((0, 2, 50))
    else:
        holder[key] = chance.choice((*_NUMBERS, *WORDS, [], {}, [[]], {"a": 1}, [1, 2, 3]))
    return json.dumps(document).encode()


def places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every value of a document, as what holds it and under which key."""
    keys = document.keys() if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in list(keys):
        yield document, key
        yield from places(document[key])


def _in_text(content: bytes, chance: random.Random) -> bytes:
    """Change one cell of a table or one value of a TOML file, or a whole line."""
    lines = content.decode("utf-8", "replace").splitlines()
    if not lines:
        return content
    at = chance.randrange(len(lines))
    new = str(chance.choice((*WORDS, *_NUMBERS)))
    if chance.random() < 0.2:
        lines[at] = chance.choice(("", new, lines[at] * 2, lines[chance.randrange(len(lines))]))
    elif "," in lines[at] and "=" not in lines[at]:
        cells = lines[at].split(",")
        cells[chance.randrange(len(cells))] = new
        lines[at] = ",".join(cells)
    elif "=" in lines[at]:
        parts = lines[at].split("=")
        place = chance.randrange(1, len(parts))
        value = parts[place].split(" }")[0].split(",")[0].strip()
        parts[place] = parts[place].replace(value, chance.choice((new, json.dumps(new))), 1)
        lines[at] = "=".join(parts)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _in_a_line(content: bytes, chance: random.Random) -> bytes:
    """Change one line of JSON lines."""
    lines = content.splitlines()
    if not lines:
        return content
    at = chance.randrange(len(lines))
    lines[at] = _in_json(lines[at], chance)
    return b"\n".join(lines)


def _in_header(content: bytes, chance: random.Random) -> bytes:
    """Change the header of a safetensors file, and its length with it."""
    length = int.from_bytes(content[:_HEADER_BYTES], "little")
    end = _HEADER_BYTES + length
    header = _in_json(content[_HEADER_BYTES:end], chance)
    return len(header).to_bytes(_HEADER_BYTES, "little") + header + content[end:]
