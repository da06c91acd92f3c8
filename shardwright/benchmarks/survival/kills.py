"""SIGKILL at random moments of runs, and their resumption: python -m shardwright.benchmarks.survival.kills.

Each run goes on in its folder, killed again and again, until all its steps are taken. Then its losses are compared with those of the
same run undisturbed, to the last digit.
"""

import argparse
import math
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
STARTS_SHARE, START_SECONDS = 0.25, 8.0


class Kill(NamedTuple):
    """One kill: of what, after how many recorded steps, the seconds until no rank was left, and what the launcher said."""

    split: Split
    victim: Victim
    after_steps: int
    gone_seconds: float
    said: str

    @property
    def clean(self) -> bool:
        """Whether no rank outlived it for long, and a launcher that lived said one line."""
        one_line = self.said.startswith("error: ") and self.said.count("\n") <= 1
        return self.gone_seconds <= GONE_SECONDS and (self.victim != "a rank" or one_line)


class Story(NamedTuple):
    """One folder: its kills, and whether its losses are those of the undisturbed run."""

    kills: tuple[Kill, ...]
    equal: bool


def disturb(kills: int, *, seed: int = 0, steps: int = STEPS, splits: tuple[Split, ...] = SPLITS) -> Iterator[Story]:
    """Kill runs `kills` times in all, and yield each folder's story at its end.

    Raises:
        RunFailedError: a run that nobody killed failed, or did not end.
    """
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="shardwright-kills-") as name:
        folder = Path(name)
        write_text(folder)
        expected: dict[Split, list[float]] = {}
        number = 0
        while kills > 0:
            split = splits[number % len(splits)]
            if split not in expected:
                expected[split] = _finish(folder / split.replace(" ", ""), split, steps)
            out = folder / f"run-{number}"
            found = _story(out, split, chance, steps, kills=min(kills, MOST_KILLS_OF_A_RUN))
            kills, number = kills - len(found), number + 1
            yield Story(tuple(found), _finish(out, split, steps) == expected[split])


def _story(out: Path, split: Split, chance: random.Random, steps: int, *, kills: int) -> list[Kill]:
    """Kill the run in `out` at random moments, and resume it each time: every fourth one while it starts, the others at random steps."""
    found: list[Kill] = []
    for number in range(kills):
        launcher = start(out.parent, split, out, steps=steps, every=EVERY)
        before = len(RunFolder(out).read_steps())
        if chance.random() < STARTS_SHARE:
            _wait(launcher, out, math.inf, seconds=chance.uniform(0, START_SECONDS))
        else:
            further = chance.randint(1, max(1, (steps - 2 - before) // (kills - number)))
            _wait(launcher, out, before + further, seconds=LIMIT_SECONDS)
            time.sleep(chance.uniform(0, 0.2))
        if launcher.poll() is not None:  # a machine so fast that the run has ended
            launcher.communicate()
            break
        found.append(_kill(launcher, out, split, chance))
    return found


def _wait(launcher: "subprocess.Popen[str]", out: Path, until_steps: float, *, seconds: float) -> None:
    """Wait for steps, or for seconds to be over, or for the launcher's end."""
    deadline = time.monotonic() + seconds
    while launcher.poll() is None and time.monotonic() < deadline and len(RunFolder(out).read_steps()) < until_steps:
        time.sleep(0.005)


def _kill(launcher: "subprocess.Popen[str]", out: Path, split: Split, chance: random.Random) -> Kill:
    ranks = psutil.Process(launcher.pid).children(recursive=True)
    victim = chance.choice(VICTIMS) if ranks else "the launcher"
    chosen = [chance.choice(ranks)] if victim == "a rank" else ranks if victim == "all" else []
    for process in chosen:
        process.kill()
    if victim != "a rank":
        launcher.kill()
    begin = time.monotonic()
    _, left = psutil.wait_procs(ranks, timeout=2 * GONE_SECONDS)
    gone_seconds = time.monotonic() - begin if not left else float("inf")
    for process in left:
        process.kill()
    _, said = launcher.communicate()
    return Kill(split, victim, len(RunFolder(out).read_steps()), gone_seconds, said)


def _finish(out: Path, split: Split, steps: int) -> list[float]:
    """Let the run in `out` take the steps that are left; return the losses of all."""
    launcher = start(out.parent, split, out, steps=steps, every=EVERY)
    try:
        _, said = launcher.communicate(timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        launcher.kill()
        raise RunFailedError(f"{out}: a run that nobody killed took more than {LIMIT_SECONDS:.0f} s") from None
    if launcher.returncode:
        raise RunFailedError(f"{out}: a run that nobody killed ended with {launcher.returncode}: {said.strip()}")
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
        table = Table("killed", "steps so far", "no rank left after")
        for kill in story.kills:
            table.add_row(kill.victim, str(kill.after_steps), f"{kill.gone_seconds:.1f} s")
        table.title = (
            f"{story.kills[0].split if story.kills else 'not killed'}: losses {'equal' if story.equal else 'differ'}"
        )
        console.print(table)
    kills = [kill for story in stories for kill in story.kills]
    for kill in kills:
        if not kill.clean:
            console.print(f"not clean: {kill}")
    survived = all(story.equal for story in stories) and all(kill.clean for kill in kills)
    slowest = max((kill.gone_seconds for kill in kills), default=0.0)
    console.print(f"{len(kills)} kills in {len(stories)} runs: {'all' if survived else 'not all'} survived, ", end="")
    console.print(f"the last rank gone after {slowest:.1f} s at most")
    raise SystemExit(not survived)


if __name__ == "__main__":
    main()
