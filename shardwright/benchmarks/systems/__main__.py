"""What the systems whose ideas are here report, beside what we predict for that setup: python -m shardwright.benchmarks.systems [NAME ...]

Prints a table in Markdown, the one in docs/systems.md; `--write FILE` puts it there. A row has the number of the system in the list of the
design. Figures are those of the papers' abstracts.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from shardwright.base import nearest

from .experts import EXPERTS
from .long_sequences import LONG_SEQUENCES
from .networks import NETWORKS
from .off_device import OFF_DEVICE
from .pretraining import PRETRAINING
from .setups import System

SYSTEMS = tuple(
    sorted((*PRETRAINING, *NETWORKS, *LONG_SEQUENCES, *OFF_DEVICE, *EXPERTS), key=lambda one: int(one.rows))
)
COMMAND = "python -m shardwright.benchmarks.systems"
_HEAD = ("| row | system | reported | predicted | command | difference and its cause |", "|---|---|---|---|---|---|")
_TABLE = re.compile(rf"(?m)^{re.escape(_HEAD[0])}$(?:\n\|.*)*")


def short_name(system: System) -> str:
    """`ptd-p` of PTD-P, `byteScale, Zeppelin` by its first word."""
    return re.split(r"[ ,(]", system.name.lower())[0]


def row(system: System) -> str:
    """One line of the table in Markdown."""
    if system.check is None:
        cells = [system.rows, system.name, "", "not checked", "", system.words]
    else:
        line = system.check()
        cells = [
            system.rows,
            system.name,
            line.reported,
            line.predicted,
            f"`{COMMAND} {short_name(system)}`",
            line.cause,
        ]
    return f"| {' | '.join(cells)} |"


def table(systems: Sequence[System] = SYSTEMS) -> str:
    """The table in Markdown."""
    return "\n".join((*_HEAD, *map(row, systems)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="the first word of a system; by default all")
    parser.add_argument("--write", type=Path, metavar="FILE", help="replace the table in this document")
    options = parser.parse_args(arguments)
    known = [short_name(system) for system in SYSTEMS]
    for name in options.names:
        if name not in known:
            raise SystemExit(f"system '{name}' is not known; allowed: {', '.join(known)}.{nearest(name, known)}")
    chosen = [one for one in SYSTEMS if not options.names or short_name(one) in options.names]
    if options.write is None:
        print(table(chosen))
        return
    text = options.write.read_text(encoding="utf-8")
    if options.names or not _TABLE.search(text):
        raise SystemExit(f"--write puts the whole table into a document that has one; {options.write} got none of it")
    options.write.write_text(_TABLE.sub(lambda _: table(), text, count=1), encoding="utf-8")


if __name__ == "__main__":
    main()
