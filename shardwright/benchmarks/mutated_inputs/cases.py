"""Cases by number: a good input, damaged, and the command that reads it."""

import contextlib
import random
import shutil
from pathlib import Path

from . import frameworks, planning, training
from .changes import WORDS, damaged, with_options
from .kinds import Case
from .outcomes import Outcome, fault, run

INPUTS = (*planning.INPUTS, *training.INPUTS, *frameworks.INPUTS)


def write_inputs(folder: Path) -> None:
    """Write one good input of each kind into `folder`."""
    planning.write_inputs(folder)
    training.write_inputs(folder)
    frameworks.write_inputs(folder)


def case(number: int, folder: Path) -> Case:
    """Return case `number`, made from the good inputs in `folder`."""
    chance = random.Random(number)
    chosen = INPUTS[number % len(INPUTS)]
    arguments = chance.choice(chosen.commands)
    if chosen.name == "options":
        return Case(with_options(arguments, chance, options=planning.OPTIONS, words=WORDS), chosen.name, None)
    if chosen.name == "run options":
        words = (*WORDS, *training.WORDS, *training.WORDS)
        return Case(with_options(arguments, chance, options=training.OPTIONS, words=words), chosen.name, None)
    content = damaged(chosen.name, (folder / chosen.name).read_bytes(), chance)
    name = f"damaged-{chosen.name}"
    stands_for = {"{}": name, "{folder}": Path(name).parts[0]}
    return Case(tuple(stands_for.get(argument, argument) for argument in arguments), name, content)


def check(number: int, folder: Path) -> tuple[Case, Outcome, str | None]:
    """Run case `number` among the good inputs in `folder`."""
    given = case(number, folder)
    _put(given, folder)
    with contextlib.chdir(folder):
        if given.arguments[0] == "run":
            with training.checks_alone():
                outcome = run(given.arguments)
        else:
            outcome = run(given.arguments)
    return given, outcome, fault(given.arguments, outcome)


def _put(given: Case, folder: Path) -> None:
    """Write the damaged file, with the good ones around it where it lies in a folder. Delete what the case before wrote."""
    for path in (folder / "out", *folder.glob("damaged-*")):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if given.content is None:
        return
    top = Path(given.name).parts[0]
    if top != given.name:
        shutil.copytree(folder / top.removeprefix("damaged-"), folder / top)
    (folder / given.name).write_bytes(given.content)
