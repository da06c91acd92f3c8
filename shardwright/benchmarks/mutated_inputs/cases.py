"""Cases by number: a good input, damaged, and the command that reads it."""

import contextlib
import random
import shutil
from pathlib import Path

from . import every_option, frameworks, phases, planning, training
from .changes import WORDS, damaged, with_options
from .kinds import Case
from .outcomes import Outcome, fault, run

INPUTS = (*planning.INPUTS, *training.INPUTS, *frameworks.INPUTS, *phases.INPUTS)
_ALL_WORDS = (*WORDS, *training.WORDS)


def write_inputs(folder: Path) -> None:
    """Write one good input of each kind into `folder`."""
    planning.write_inputs(folder)
    training.write_inputs(folder)
    frameworks.write_inputs(folder)
    phases.write_inputs(folder)
    shutil.copytree(folder, _kept(folder), symlinks=True)


def _kept(folder: Path) -> Path:
    """Where the good inputs lie a second time, as commands may be told to write over them."""
    return folder.with_name(f"{folder.name}-kept")


def case(number: int, folder: Path) -> Case:
    """Return case `number`, made from the good inputs in `folder`: every second one is of options alone."""
    chance = random.Random(number)
    if number % 2:
        return Case(every_option.drawn(number // 2, chance, words=_ALL_WORDS), "options", None)
    chosen = INPUTS[number // 2 % len(INPUTS)]
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
    with contextlib.chdir(folder), training.checks_alone():
        outcome = run(given.arguments)
    return given, outcome, fault(given.arguments, outcome)


def _put(given: Case, folder: Path) -> None:
    """Write the damaged file, with the good ones around it where it lies in a folder. Undo what the case before wrote."""
    _restore(folder, _kept(folder))
    if given.content is None:
        return
    top = Path(given.name).parts[0]
    if top != given.name:
        shutil.copytree(folder / top.removeprefix("damaged-"), folder / top)
    (folder / given.name).write_bytes(given.content)


def _restore(folder: Path, kept: Path) -> None:
    """Make a folder equal to the kept one again, by sizes and times."""
    good = {path.name: path for path in kept.iterdir()}
    for path in folder.iterdir():
        if path.name not in good or path.is_dir() != good[path.name].is_dir():
            _delete(path)
    for name, path in good.items():
        own = folder / name
        if path.is_dir():
            own.mkdir(exist_ok=True)
            _restore(own, path)
        elif not own.exists() or _state(own) != _state(path):
            shutil.copy2(path, own)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
