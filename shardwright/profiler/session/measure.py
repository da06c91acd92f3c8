"""Measures a profile: within a budget, recorded step by step, with all ranks of the launch."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shardwright.base import SpecError
from shardwright.profiler.ranks import AloneRanks, Ranks
from shardwright.profiler.sizes import left_out_errors
from shardwright.profiler.timing import FigureProbe, Machine, Precision, Probe, Watch, reference_work
from shardwright.specs import MachineFingerprint, Profile, write_profile

from .agenda import DEFAULT_WEIGHTS, Agenda, ExpectedError
from .crew import Crew, LayerChecks
from .findings import Findings
from .fingerprint import machine_fingerprint
from .interruption import Interruption
from .journal import Header, Journal
from .progress import Progress, ShowProgress
from .session import Session, Timekeeping
from .stopped import CrewLostError, DeviceGoneError, StoppedError


@dataclass(frozen=True)
class ProfileRequest:
    """A request. `out`: the profile file; the journal is beside it. `budget_seconds`: limit of measuring.

    `asked`: the options that distinguish this request from another, as the user names them. Only the same request
    continues a run that was cut short. `fresh`: discard the measurements of such a run. `weights`: by operation, see
    `Agenda`.
    """

    out: Path
    budget_seconds: float = 180.0
    asked: Mapping[str, str] = field(default_factory=dict)
    fresh: bool = False
    weights: Mapping[str, float] = field(default_factory=lambda: DEFAULT_WEIGHTS)
    precision: Precision = field(default_factory=Precision)

    def __post_init__(self) -> None:
        if not 0 < self.budget_seconds < float("inf"):
            raise SpecError(f"the budget is {self.budget_seconds:g} s; give a number of seconds above 0, such as 180")


def _say_nothing(progress: Progress) -> None:
    return None


def _as_it_is(profile: Profile) -> Profile:
    return profile


@dataclass(frozen=True)
class Hooks:
    """Extensions. `expected_error`: see `Agenda`. `layers`: the layer checks, made with the profile so far.

    `finish`: changes to a profile before it is written, such as fitting curves. `clock`: in seconds.
    """

    expected_error: ExpectedError = left_out_errors
    layers: LayerChecks | None = None
    finish: Callable[[Profile], Profile] = _as_it_is
    show: ShowProgress = _say_nothing
    clock: Callable[[], float] = time.monotonic


def measure_profile(
    request: ProfileRequest,
    machine: Machine,
    probes: Sequence[Probe],
    figures: Sequence[FigureProbe] = (),
    *,
    ranks: Ranks | None = None,
    hooks: Hooks | None = None,
) -> Profile:
    """Measure, write `request.out` and return its contents. Every rank of the launch calls this with the same probes.

    It continues a run of the same request on the same machine that was cut short. Two probes of the same series share
    it.

    Raises:
        StoppedError: a signal, a lost device or rank, a full disk. It holds the profile so far. That profile is also
            written where possible, marked as not complete; the same request continues from there.
        SpecError: the journal is of another machine or request, or cannot be written; the ranks differ; nothing works.
    """
    ranks, hooks = ranks or AloneRanks(), hooks or Hooks()
    interruption = Interruption(obedient=ranks.rank != 0)
    with interruption.listening():
        fingerprint = _fingerprint(machine, ranks)
        crew = Crew(machine, probes, figures, ranks=ranks, interruption=interruption, layers=hooks.layers)
        if ranks.rank != 0:
            return _serve(crew)
        return _lead(lambda: _Lead(request, probes, figures, crew, hooks, fingerprint, machine.clock_hz), crew)


def _serve(crew: Crew) -> Profile:
    try:
        profile = crew.serve()
    except CrewLostError as lost:
        raise SpecError(str(lost)) from None
    if profile is None:
        raise SpecError("rank 0 ended without a profile; it says why")
    return profile


def _fingerprint(machine: Machine, ranks: Ranks) -> MachineFingerprint:
    failure = None
    try:
        load = reference_work(machine)
        load()
        machine.synchronize()
    except RuntimeError as error:
        failure = (str(error).strip().splitlines() or [type(error).__name__])[0]
    for rank, words in enumerate(ranks.gather(failure)):
        if words is not None:
            raise SpecError(f"rank {rank}: {machine.device} cannot even multiply two matrices ({words})")
    return machine_fingerprint(machine, ranks, load=load)


@dataclass(frozen=True)
class _Stop:
    """The reason why measuring ended early."""

    reason: str
    signal_number: int | None = None


class _Lead:
    """Rank 0: the journal, the session and the file."""

    def __init__(
        self,
        request: ProfileRequest,
        probes: Sequence[Probe],
        figures: Sequence[FigureProbe],
        crew: Crew,
        hooks: Hooks,
        fingerprint: MachineFingerprint,
        clock_hz: Callable[[], float | None],
    ) -> None:
        self._request, self._hooks, self._fingerprint = request, hooks, fingerprint
        precision = request.precision
        agenda = Agenda(
            probes, weights=request.weights, expected_error=hooks.expected_error, tolerance=precision.tolerance
        )
        keys = [agenda.series(index).key for index in range(len(probes))]
        header = Header(
            fingerprint=fingerprint,
            asked=dict(request.asked),
            measured=(*keys, *(probe.name for probe in figures)),
        )
        self._journal = Journal.open(request.out, header, fresh=request.fresh)
        spent = self._journal.records[-1].spent_seconds if self._journal.records else 0.0
        timekeeping = Timekeeping(hooks.clock, hooks.clock(), request.budget_seconds, spent)
        self._findings = Findings(self._journal, agenda, probes, spent_seconds=lambda: timekeeping.spent_seconds)
        self._session = Session(
            crew,
            probes,
            figures,
            agenda=agenda,
            findings=self._findings,
            watch=Watch(fingerprint.kind, crew.reference_seconds, clock_hz),
            precision=precision,
            time=timekeeping,
            show=hooks.show,
            has_layers=hooks.layers is not None,
        )

    def measure(self) -> tuple[Profile, _Stop | None]:
        """Return the profile, and why it ended early, if it did."""
        stop: _Stop | None = None
        try:
            self._session.run(self._fingerprint)
        except KeyboardInterrupt as interrupted:
            number = getattr(interrupted, "number", signal.SIGINT)
            stop = _Stop(f"ended by {signal.Signals(number).name}", number)
        except (DeviceGoneError, CrewLostError, SpecError) as error:
            stop = _Stop(str(error))
        complete = stop is None and self._session.complete
        remarks = [f"stopped early: {stop.reason}"] if stop else []
        remarks += self._session.remarks(stopped=stop is not None)
        return self._hooks.finish(self._findings.profile(self._fingerprint, complete=complete, remarks=remarks)), stop

    def keep(self, profile: Profile, stop: _Stop | None) -> None:
        """Write the profile; where nothing stopped it, remove the journal.

        Raises:
            StoppedError: it was stopped, or cannot be written.
        """
        out, number = self._request.out, stop.signal_number if stop else None
        try:
            write_profile(out, profile)
        except SpecError as error:
            self._journal.close()
            why = f"{stop.reason}; " if stop else ""
            message = f"{why}{error}; what was measured is kept in {self._journal.path}: run the same command again"
            raise StoppedError(message, profile, signal_number=number) from None
        if stop is None:
            self._journal.remove()
            return
        self._journal.close()
        message = f"{stop.reason}; {profile.points} points are in {out}: run the same command again to go on"
        raise StoppedError(message, profile, signal_number=number)


def _lead(lead: Callable[[], _Lead], crew: Crew) -> Profile:
    profile: Profile | None = None
    try:
        begun = lead()
        profile, stop = begun.measure()
        begun.keep(profile, stop)
        return profile
    finally:
        crew.end(profile)
