"""Hand files of random plans to the frameworks that are installed, and print what each accepts."""

import sys

from shardwright.base import SpecError

from .checks import CHECKS, Checked, check_target

PLANS = 100


def _control(checked: Checked) -> str:
    return "and refuses a spoiled one" if checked.refuses_spoiled else "BUT takes a spoiled one, too"


def main() -> int:
    """Run the checks of the targets that are named, or of all; return 1 where a framework refuses a file."""
    refused = False
    try:
        for name in sys.argv[1:] or CHECKS:
            checked = check_target(name, PLANS)
            if checked.version is None:
                print(f"{name}: {checked.package} is not installed, not checked")
                continue
            print(
                f"{name}: {checked.package} {checked.version} accepts {checked.accepted} of {checked.plans} files, {_control(checked)}"
            )
            if checked.refusal is not None:
                print(f"  first refused: {checked.refusal}")
            refused |= checked.refusal is not None or not checked.refuses_spoiled
    except SpecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(refused)


if __name__ == "__main__":
    sys.exit(main())
