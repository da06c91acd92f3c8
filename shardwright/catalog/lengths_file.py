"""Lengths of documents: a named distribution, or a file that lists them."""

from pathlib import Path

from shardwright.base import SpecError, read_count, read_text
from shardwright.specs import MOST_PER_STEP, Lengths

_UNIFORM = "uniform:"
_EXAMPLE = "uniform:512..8192, or a file with one length, or length,count, in each line"


def read_lengths(reference: str) -> Lengths:
    """Read `uniform:LOW..HIGH` (tokens, such as 512..8k), or a text file with one length of a document in tokens, or
    `length,count`, in each line. A first line of words is a header.

    Raises:
        SpecError: the reference is neither; says which line is wrong, and what is allowed.
    """
    if reference.startswith(_UNIFORM):
        return _uniform(reference)
    path = Path(reference)
    if not path.exists():
        raise SpecError(f"lengths '{reference}' are neither {_UNIFORM}LOW..HIGH nor a file; give {_EXAMPLE}")
    counts: dict[int, float] = {}
    lines = [line.strip() for line in read_text(path).splitlines()]
    for number, line in enumerate(lines, start=1):
        parts = [part.strip() for part in line.split(",")]
        if not line or (number == 1 and not any(part.isdecimal() for part in parts)):
            continue
        if len(parts) > 2 or not all(part.isdecimal() for part in parts) or not 0 < int(parts[0]) <= MOST_PER_STEP:
            raise SpecError(f"{path}: line {number} is '{line[:40]}'; give one length in tokens, or length,count")
        counts[int(parts[0])] = counts.get(int(parts[0]), 0.0) + (int(parts[1]) if len(parts) == 2 else 1)
    counts = {length: count for length, count in counts.items() if count}
    if not counts:
        raise SpecError(f"{path}: lists no document; give one length in tokens, or length,count, in each line")
    return Lengths.of_counts(path.name, counts)


def _uniform(reference: str) -> Lengths:
    low_text, dots, high_text = reference.removeprefix(_UNIFORM).partition("..")
    try:
        low, high = read_count(low_text), read_count(high_text)
    except SpecError:
        dots = ""
        low = high = 1
    if dots and high > MOST_PER_STEP:
        raise SpecError(f"lengths '{reference}' reach beyond {MOST_PER_STEP:,} tokens; give {_UNIFORM}512..8192")
    if not dots or not 0 < low <= high:
        raise SpecError(f"lengths '{reference}' name no range of tokens; give {_UNIFORM}512..8192, the shortest first")
    return Lengths.uniform(low, high)
