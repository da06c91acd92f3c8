"""`python -m shardwright.benchmarks.own_runs`: predict the training step of small Llamas on this machine's CPU, run them, compare.

Predictions rest on `--profile FILE`, on a profile measured right before with `--measure SECONDS`, or on what `local:1` knows.
Every configuration runs twice, all of them once before any runs again, so that a disturbed minute shows. Each run has a
process of its own, so that the peak of memory is its own. The exit code is 0 if all could be run, even if a target is missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from shardwright.base import RunFailedError, SpecError
from shardwright.base import units as readable
from shardwright.costmodel import estimate_plan
from shardwright.executor import RunOptions
from shardwright.profiler.machine import resolve_cluster
from shardwright.specs import ClusterSpec, Measurement, Profile, read_profile

from .own import (
    IN_BF16,
    TWELVE,
    OwnConfiguration,
    OwnRun,
    OwnSummary,
    Pass,
    interpolation_targets,
    own_runs_csv,
    own_runs_tables,
    run_alone,
)

WARMUP_STEPS = 2
Tell = Callable[[str], None]


def compare_own_runs(
    configurations: Sequence[OwnConfiguration], cluster: ClusterSpec, *, steps: int, passes: int, tell: Tell
) -> list[OwnRun]:
    """Predict and run each configuration; `steps` are timed in each pass, after the first two.

    Raises:
        SpecError, RunFailedError: see `run_alone`.
    """
    measured: dict[OwnConfiguration, list[Measurement]] = {each: [] for each in configurations}
    for number in range(1, passes + 1):
        for configuration in configurations:
            found = _run(configuration, cluster, steps)
            measured[configuration].append(found)
            tell(f"pass {number} of {passes}  {configuration.name}  {readable.seconds(found.step_seconds)} a step")
    return [_compared(configuration, cluster, found) for configuration, found in measured.items()]


def _run(configuration: OwnConfiguration, cluster: ClusterSpec, steps: int) -> Measurement:
    with tempfile.TemporaryDirectory(prefix="shardwright-own-run-") as folder:
        options = RunOptions(
            out=Path(folder) / "run",
            steps=WARMUP_STEPS + steps,
            timing_warmup_steps=WARMUP_STEPS,
            checkpoint_every=None,
        )
        return run_alone(configuration.plan_file(cluster), options)


def _compared(configuration: OwnConfiguration, cluster: ClusterSpec, found: Sequence[Measurement]) -> OwnRun:
    return OwnRun(
        name=configuration.name,
        counts=configuration in TWELVE,
        estimate=estimate_plan(configuration.model, cluster, configuration.training, configuration.plan),
        passes=tuple(Pass.of(measurement) for measurement in found),
        fingerprint=found[-1].fingerprint,
    )


def with_profile(cluster: ClusterSpec, path: Path) -> ClusterSpec:
    """The cluster of one rank with the profile in `path`.

    Raises:
        SpecError: the file is no profile file, or is of another number of ranks.
    """
    profile = read_profile(path)
    if profile.fingerprint.ranks != 1:
        raise SpecError(
            f"{path}: was measured by {profile.fingerprint.ranks} ranks at once and these runs have one; measure one with 'shardwright profile --ranks 1'"
        )
    group = cluster.node.model_copy(update={"profile": profile})
    return cluster.model_copy(update={"groups": (group,)})


def measure_profile_file(seconds: float, path: Path) -> None:
    """Write a profile of this machine with one rank, in a separate process, so that its memory is free before the runs.

    Raises:
        SpecError: the profile could not be measured.
    """
    arguments = ["profile", "--ranks", "1", "--budget", str(seconds), "--out", str(path), "--quiet"]
    done = subprocess.run([sys.executable, "-P", "-m", "shardwright", *arguments], stdout=sys.stderr, check=False)
    if done.returncode:
        raise SpecError(f"'shardwright {' '.join(arguments)}' ended with {done.returncode}; see what it said above")


def _cluster(arguments: argparse.Namespace) -> ClusterSpec:
    cluster = resolve_cluster("local:1")
    if arguments.profile is not None:
        return with_profile(cluster, arguments.profile)
    if arguments.measure is None:
        return cluster
    with tempfile.TemporaryDirectory(prefix="shardwright-profile-") as folder:
        path = Path(folder) / "profile.json"
        measure_profile_file(arguments.measure, path)
        return with_profile(cluster, path)


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m shardwright.benchmarks.own_runs", description=__doc__)
    rests_on = parser.add_mutually_exclusive_group()
    rests_on.add_argument("--profile", type=Path, help="predict from this profile file")
    rests_on.add_argument("--measure", type=float, metavar="SECONDS", help="measure a profile first, for so long")
    parser.add_argument(
        "--steps", type=_count, default=6, help="timed steps of each run, after two others (%(default)s)"
    )
    parser.add_argument("--passes", type=_count, default=2, help="how often each is run (%(default)s)")
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="run these alone, counted from 1")
    parser.add_argument("--parts", action="store_true", help="show the parts of steps and of predicted memory, too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, metavar="CSV", help="write the rows to this file, too")
    return parser.parse_args(given)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"is {number}; give 1 or more")
    return number


def _chosen(numbers: Sequence[int] | None) -> list[OwnConfiguration]:
    every = [*TWELVE, *IN_BF16]
    if wrong := [number for number in numbers or () if not 1 <= number <= len(every)]:
        raise SpecError(
            f"--only {wrong[0]}: there are {len(every)} configurations; give numbers from 1 to {len(every)}"
        )
    return [every[number - 1] for number in numbers] if numbers else every


def _show(runs: Sequence[OwnRun], profile: Profile | None, arguments: argparse.Namespace) -> None:
    if arguments.out is not None:
        try:
            arguments.out.write_text(own_runs_csv(runs), encoding="utf-8")
        except OSError as error:
            raise SpecError(f"{arguments.out}: cannot be written ({error.strerror or error})") from None
    if not arguments.json:
        Console(width=170).print(own_runs_tables(runs, parts=arguments.parts, profile=profile))
        return
    summary = OwnSummary.of(runs)
    every = (*(summary.targets if summary else ()), *interpolation_targets(profile))
    targets = [{**target._asdict(), "met": target.met} for target in every]
    found = {
        "runs": [run.model_dump(mode="json") for run in runs],
        "summary": summary.model_dump(mode="json") if summary else None,
        "targets": targets,
    }
    print(json.dumps(found, indent=1, allow_nan=False))


def main(given: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 2 for a user's mistake, 1 for a failed run."""
    arguments = _arguments(given)
    try:
        configurations = _chosen(arguments.only)
        cluster = _cluster(arguments)
        runs = compare_own_runs(
            configurations,
            cluster,
            steps=arguments.steps,
            passes=arguments.passes,
            tell=lambda line: print(line, file=sys.stderr, flush=True),
        )
        _show(runs, cluster.node.profile, arguments)
    except (SpecError, RunFailedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, SpecError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
