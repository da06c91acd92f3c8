"""`python -m shardwright.benchmarks.mutated_inputs`."""

import argparse
import tempfile
from pathlib import Path

from rich.console import Console

from shardwright.benchmarks import mutated_inputs

from .cases import check, write_inputs
from .outcomes import EXIT_CODES


def main() -> None:
    """Print the faults, and how many cases there were."""
    parser = argparse.ArgumentParser(description=mutated_inputs.__doc__)
    parser.add_argument("--cases", type=int, default=5000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--case", type=int, help="repeat one case and show it")
    options = parser.parse_args()
    console, faults, answers = Console(width=170, markup=False, highlight=False), 0, dict.fromkeys(EXIT_CODES, 0)
    numbers = range(options.first, options.first + options.cases) if options.case is None else [options.case]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "inputs"
        folder.mkdir()
        write_inputs(folder)
        for number in numbers:
            given, outcome, wrong = check(number, folder)
            if outcome.code in answers:
                answers[outcome.code] += 1
            if wrong or options.case is not None:
                faults += wrong is not None
                console.print(f"case {number}: {wrong}\n  {' '.join(given.arguments)!r:.300}")
            if options.case is not None:
                shown = given.content.decode("utf-8", "replace")[:6000] if given.content else ""
                console.print(
                    f"{shown}\nexit code {outcome.code}\n{outcome.stdout[:2000]}\n{outcome.stderr[:2000]}\n{outcome.error}"
                )
    console.print(
        f"{len(numbers)} cases, {faults} faults; exit codes: {', '.join(f'{code}: {count}' for code, count in answers.items())}"
    )


if __name__ == "__main__":
    main()
