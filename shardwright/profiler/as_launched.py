"""Measures this machine as this process was launched: alone, with its own ranks, or as a rank of torchrun or Slurm."""

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from shardwright.base import RanksLostError, SpecError
from shardwright.costmodel.op_times import SUSTAINED_SHARE, OpTimes, expected_errors, fit_curve, op_times
from shardwright.profiler.machine import default_path, local_cluster, rank_count, this_machine
from shardwright.profiler.probes.compute import (
    ShardingProbe,
    SustainedMatmulProbe,
    check_layer,
    default_figures,
    default_probes,
)
from shardwright.profiler.probes.movement import (
    CollectiveOverlapProbe,
    CopyOverlapProbe,
    collective_probes,
    disk_probes,
    host_copy_probes,
    memory_probes,
)
from shardwright.profiler.ranks import AloneRanks, TorchRanks, detected_launch, joined_ranks, run_local_ranks
from shardwright.profiler.session import (
    Hooks,
    ProfileRequest,
    Progress,
    ShowProgress,
    StoppedError,
    journal_path,
    measure_profile,
)
from shardwright.profiler.sizes import Usage
from shardwright.profiler.timing import FigureProbe, Machine, Probe, machine_here
from shardwright.specs import LayerCheck, Profile, TrainingSpec, read_profile

from .profile_options import ACTIVATION_FORMATS, ProfileOptions
from .selection import FIGURES, LAYERS, selected

_MOST_TENSOR_PARALLEL = 8
_END_SECONDS = 3.0
_JOB = "shardwright.profiler.as_launched:measure_as_rank"


@dataclass(frozen=True)
class MeasuredProfile:
    """A profile and its file.

    `stopped`: one line that says why measuring was cut short, None where it was not. `signal_number`: the signal that
    did so, or None. `leads`: whether this process reports to the user.
    """

    profile: Profile
    path: Path
    stopped: str | None = None
    signal_number: int | None = None
    leads: bool = True


def run_profile(options: ProfileOptions, *, out: Path | None, ranks: int | None, show: ShowProgress) -> MeasuredProfile:
    """Measure and write the profile to `out`, by default to the store.

    `ranks` must equal the size of the launch. Where this process was not launched as one of several, it starts `ranks`
    processes; the default is the number of `--cluster local`. `show` is called on the first rank.

    Raises:
        SpecError: the machine can't hold the ranks, the model can't be read, nothing could be measured.
        RanksLostError: one of the ranks failed or was killed.
    """
    launch = detected_launch(os.environ)
    if launch is not None:
        if ranks not in (None, launch.size):
            raise SpecError(f"--ranks {ranks}: {launch.by} started {launch.size}; leave --ranks out")
        with joined_ranks(launch) as joined:
            return _measured(options, _destination(out, joined.size), joined, show)
    count = rank_count(ranks)
    path = _destination(out, count)
    if count == 1:
        return _measured(options, path, None, show)
    argument = json.dumps({"options": options.model_dump(mode="json"), "out": str(path)})
    try:
        result = run_local_ranks(count, _JOB, argument, tell=lambda line: show(Progress(**json.loads(line))))
    except RanksLostError as lost:
        kept = f"; what was measured is kept in {journal_path(path)}: run the same command again to go on"
        raise RanksLostError(f"{lost}{kept if journal_path(path).exists() else ''}") from None
    answer = json.loads(result)
    return MeasuredProfile(read_profile(path), path, **answer)


def measure_as_rank(ranks: TorchRanks, argument: str, tell: Callable[[str], None]) -> str:
    """Run the job of each rank that `run_profile` starts."""
    data = json.loads(argument)
    options = ProfileOptions.parse(data["options"], source="profile options")
    found = _measured(options, Path(data["out"]), ranks, lambda progress: tell(json.dumps(asdict(progress))))
    return json.dumps({"stopped": found.stopped, "signal_number": found.signal_number})


def _destination(out: Path | None, ranks: int) -> Path:
    if out is not None:
        return out
    path = default_path(this_machine(ranks), datetime.now(UTC).date().isoformat())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpecError(f"{path.parent}: cannot be made ({error.strerror or error}); give --out FILE") from None
    return path


def _measured(options: ProfileOptions, path: Path, ranks: TorchRanks | None, show: ShowProgress) -> MeasuredProfile:
    """Measure the profile. Every rank calls this."""
    per_node = ranks.nodes.ranks_per_node if ranks else 1
    alone = ranks or AloneRanks()
    machine = machine_here(alone, local_rank=alone.rank % per_node, ranks_on_node=per_node)
    wanted = _Wanted(options, machine, ranks)
    request = ProfileRequest(
        out=path, budget_seconds=options.budget_seconds, asked=options.asked(), fresh=options.fresh
    )
    hooks = Hooks(expected_error=expected_errors, layers=wanted.layers(), finish=with_curves, show=show)
    leads, threads = alone.rank == 0, set(threading.enumerate())
    try:
        profile = measure_profile(request, machine, wanted.probes(), wanted.figures(), ranks=alone, hooks=hooks)
    except StoppedError as stopped:
        _let_end(set(threading.enumerate()) - threads)
        return MeasuredProfile(stopped.profile, path, str(stopped), stopped.signal_number, leads)
    return MeasuredProfile(profile, path, leads=leads)


def _let_end(threads: set[threading.Thread]) -> None:
    """Let threads that still repeat timed work end by themselves. An interpreter that ends before them aborts."""
    deadline = time.monotonic() + _END_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


def with_curves(profile: Profile) -> Profile:
    """Return the profile with a curve fitted to each series that has points."""
    fitted = (series.model_copy(update={"curve": fit_curve(series)}) for series in profile.series)
    return profile.model_copy(update={"series": tuple(fitted)})


class _Wanted:
    """Probes, figures and layer checks that the options request on this rank."""

    def __init__(self, options: ProfileOptions, machine: Machine, ranks: TorchRanks | None) -> None:
        self._options, self._machine, self._ranks = options, machine, ranks
        self._model = options.model_spec()
        self._formats = options.formats_on(machine.device.type)

    def probes(self) -> Sequence[Probe]:
        options = self._options
        probes: list[Probe] = default_probes(self._machine, self._formats, self._usage())
        if self._ranks is not None:
            probes += collective_probes(self._ranks, self._machine)
        probes += host_copy_probes(self._machine)
        if options.disk is not None:
            probes += disk_probes(options.disk)
        return selected(probes, options.operations)

    def figures(self) -> Sequence[FigureProbe]:
        if FIGURES not in self._options.operations:
            return []
        figures: list[FigureProbe] = [
            *default_figures(),
            CopyOverlapProbe(),
            *(ShardingProbe(each) for each in self._formats if each in ACTIVATION_FORMATS),
            *memory_probes(self._ranks, self._machine),
        ]
        if self._ranks:
            figures.append(CollectiveOverlapProbe(self._ranks))
        if seconds := self._options.sustained_on(self._machine.device.type):
            # first where it was asked for, so that the budget holds it; else last, after what its heat would disturb
            figures.insert(
                len(figures) if self._options.sustained_seconds is None else 0, SustainedMatmulProbe(seconds)
            )
        return figures

    def layers(self) -> Callable[[Machine, Profile], Sequence[LayerCheck]] | None:
        """Checks of the model's layers, in each format of activations, against the profile so far."""
        model, options, ranks = self._model, self._options, self._ranks
        if model is None or LAYERS not in options.operations:
            return None
        per_node = ranks.nodes.ranks_per_node if ranks else 1
        cluster = local_cluster(per_node) if ranks is None or ranks.rank == 0 else None
        cluster = ranks.tell(cluster) if ranks else cluster
        assert cluster is not None  # rank 0 has sent it
        trainings = [options.training(each) for each in self._formats if each in ACTIVATION_FORMATS]

        def times(profile: Profile, training: TrainingSpec) -> OpTimes:
            # a layer is timed with pauses, as matmuls are
            figures = {name: figure for name, figure in profile.figures.items() if name != SUSTAINED_SHARE}
            paused = profile.model_copy(update={"figures": figures})
            group = cluster.node.model_copy(update={"profile": paused})
            return op_times(cluster.model_copy(update={"groups": (group,)}), training)

        def check(machine: Machine, profile: Profile) -> list[LayerCheck]:
            return [
                found
                for training in trainings
                for found in check_layer(
                    model,
                    training,
                    options.micro_batch,
                    machine=machine,
                    times=times(profile, training),
                )
            ]

        return check

    def _usage(self) -> Usage | None:
        if self._model is None:
            return None
        per_node = self._ranks.nodes.ranks_per_node if self._ranks else 1
        degrees = [degree for degree in range(1, min(per_node, _MOST_TENSOR_PARALLEL) + 1) if per_node % degree == 0]
        training = self._options.training(self._formats[0])
        return Usage(self._model, training, (self._options.micro_batch,), tuple(degrees))
