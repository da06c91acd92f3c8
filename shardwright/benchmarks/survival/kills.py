"""SIGKILL at random moments of runs, and their resumption: python -m shardwright.benchmarks.survival.kills.

Each run goes on in its folder, killed again and again, until all its steps are taken. Then its losses are compared with those of the
same run undisturbed, to the last digit.
"""

import argparse
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import psutil
from rich.console import Console
from rich.table import Table

from shardwright.base import RunFailedError
from shardwright.executor.training import RunFolder

from .tiny_run import Split, start, write_text

Victim = Literal["a rank", "the launcher", "all"]
VICTIMS: tuple[Victim, ...] = ("a rank", "the launcher", "all")
SPLITS: tuple[Split, ...] = ("fsdp", "tp x fsdp", "pp")
STEPS, EVERY = 100, 5
GONE_SECONDS = 10.0
LIMIT_SECONDS = 900.0
MOST_KILLS_OF_A_RUN = 5


class Kill(NamedTuple):
    """One kill: of what, after how many seconds and recorded steps, when all processes were gone, and what the launcher said."""

    split: Split
    victim: Victim
    at_seconds: float
    after_steps: int
    gone_seconds: float
    said: str

    @property
    def clean(self) -> bool:
        """Whether nothing outlived it for long, and a launcher that lived said one line."""
        one_line = self.said.startswith("error: ") and self.said.count("\n") <= 1
        return self.gone_seconds <= GONE_SECONDS and (self.victim != "a rank" or one_line)


class Story(NamedTuple):
    """One folder: its kills, and whether its losses are those of the undisturbed run."""

    kills: tuple[Kill, ...]
    equal: bool


def disturb(kills: int, *, seed: int = 0, steps: int = STEPS, splits: tuple[Split, ...] = SPLITS) -> Iterator[Story]:
    """Kill runs `kills` times in all, and yield each folder's story at its end.

    Raises:
        RunFailedError: a run without a kill failed, or did not end.
    """
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="shardwright-kills-") as name:
        folder = Path(name)
        write_text(folder)
        expected: dict[Split, tuple[list[float], float]] = {}
        for number in range(kills):  # an upper limit: a folder takes one kill at least
            if kills <= 0:
                return
            split = splits[number % len(splits)]
            if split not in expected:
                expected[split] = _undisturbed(folder, split, steps)
            losses, seconds = expected[split]
            found = _story(
                folder / f"run-{number}", split, chance, steps, seconds, at_most=min(kills, MOST_KILLS_OF_A_RUN)
            )
            kills -= len(found)
            yield Story(tuple(found), _losses(folder / f"run-{number}") == losses)


def _undisturbed(folder: Path, split: Split, steps: int) -> tuple[list[float], float]:
    """Return the losses of a run that nobody disturbs, and its seconds."""
    begin = time.monotonic()
    _finish(folder, split, folder / split.replace(" ", ""), steps)
    return _losses(folder / split.replace(" ", "")), time.monotonic() - begin


def _story(out: Path, split: Split, chance: random.Random, steps: int, seconds: float, *, at_most: int) -> list[Kill]:
    """Kill the run in `out` at random moments, `at_most` times, resume it each time, and let it end."""
    kills: list[Kill] = []
    while len(kills) < at_most:
        kill = _kill(out, split, chance, steps, chance.uniform(0, seconds))
        if kill is None:  # it ended before
            return kills if kills else _story(out, split, chance, steps, seconds / 2, at_most=at_most)
        kills.append(kill)
    _finish(out.parent, split, out, steps)
    return kills


def _kill(out: Path, split: Split, chance: random.Random, steps: int, at_seconds: float) -> Kill | None:
    launcher = start(out.parent, split, out, steps=steps, every=EVERY)
    time.sleep(at_seconds)
    if launcher.poll() is not None:
        launcher.communicate()
        return None
    ranks = psutil.Process(launcher.pid).children(recursive=True)
    victim = chance.choice(VICTIMS) if ranks else "the launcher"
    after = len(RunFolder(out).read_steps())
    chosen = [chance.choice(ranks)] if victim == "a rank" else ranks if victim == "all" else []
    for process in chosen:
        process.kill()
    if victim != "a rank":
        launcher.kill()
    begin = time.monotonic()
    processes = [*ranks, psutil.Process(launcher.pid)]
    _, left = psutil.wait_procs(processes, timeout=2 * GONE_SECONDS)
    gone_seconds = time.monotonic() - begin if not left else float("inf")
    for process in left:
        process.kill()
    _, said = launcher.communicate()
    return Kill(split, victim, at_seconds, after, gone_seconds, said)


def _finish(folder: Path, split: Split, out: Path, steps: int) -> None:
    launcher = start(folder, split, out, steps=steps, every=EVERY)
    try:
        _, said = launcher.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        launcher.kill()
        raise RunFailedError(f"{out}: a run that nobody killed took more than {LIMIT_SECONDS:.0f} s") from None
    if launcher.returncode:
        raise RunFailedError(f"{out}: a run that nobody killed ended with {launcher.returncode}: {said.strip()}")


def _losses(out: Path) -> list[float]:
    return [record.loss for record in RunFolder(out).read_steps()]


def main() -> None:
    """Print every kill, and the sum; the exit code is 1 where one was not survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    console = Console(width=110)
    stories = []
    for story in disturb(given.kills, seed=given.seed):
        stories.append(story)
        table = Table("killed", "at", "steps so far", "all gone after")
        for kill in story.kills:
            cells = kill.victim, f"{kill.at_seconds:.1f} s", str(kill.after_steps), f"{kill.gone_seconds:.1f} s"
            table.add_row(*cells)
        table.title = f"{story.kills[0].split}: losses {'equal' if story.equal else 'differ'}"
        console.print(table)
    kills = [kill for story in stories for kill in story.kills]
    for kill in kills:
        if not kill.clean:
            console.print(f"not clean: {kill}")
    survived = all(story.equal for story in stories) and all(kill.clean for kill in kills)
    slowest = max(kill.gone_seconds for kill in kills)
    console.print(f"{len(kills)} kills in {len(stories)} runs: {'all' if survived else 'not all'} survived, ", end="")
    console.print(f"the last process gone after {slowest:.1f} s at most")
    raise SystemExit(not survived)


if __name__ == "__main__":
    main()
