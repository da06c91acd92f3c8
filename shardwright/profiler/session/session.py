"""Rank 0's part of a session, until time is up.

The order is: figures, first sizes, sizes where interpolation is worst, then layers and postponed figures.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from shardwright.base import units
from shardwright.profiler.timing import FigureProbe, Precision, Probe, Samples, TroubleError, Watch
from shardwright.specs import MachineFingerprint

from .agenda import Agenda, Item
from .crew import Crew
from .findings import Findings
from .journal import CheckedLayers, LeftOut, MeasuredFigures, MeasuredPoint
from .progress import Progress, ShowProgress
from .rounds import Limits, Rounds

_SIZES_A_BATCH = 6
_LEAST_SECONDS_A_SIZE, _MOST_SECONDS_A_SIZE = 0.05, 2.0
_SHARE_FOR_REPEATS = 0.7
_SHARE_FOR_LAYERS = 0.1
_SHARE_FOR_FIGURES = 0.4  # of the budget, before any size is measured
_USUAL_BUDGET_SECONDS = 180.0
_SHARE_OF_ONE_SIZE = 0.25
_MOST_TOLERANCE = 0.10


@dataclass(frozen=True)
class Timekeeping:
    """The budget. Its clock reads `began` when measuring begins with `spent_before_seconds` already used."""

    clock: Callable[[], float]
    began: float
    budget_seconds: float
    spent_before_seconds: float = 0.0

    @property
    def spent_seconds(self) -> float:
        return self.spent_before_seconds + self.clock() - self.began

    @property
    def left_seconds(self) -> float:
        return max(0.0, self.budget_seconds - self.spent_seconds)


class Session:
    """One session of measuring. `remarks`: its messages besides its findings."""

    def __init__(
        self,
        crew: Crew,
        probes: Sequence[Probe],
        figures: Sequence[FigureProbe],
        *,
        agenda: Agenda,
        findings: Findings,
        watch: Watch,
        precision: Precision,
        time: Timekeeping,
        show: ShowProgress,
        has_layers: bool,
    ) -> None:
        self._crew, self._probes, self._figures = crew, probes, figures
        self._agenda, self._findings, self._watch = agenda, findings, watch
        self._precision, self._time, self._show = precision, time, show
        self._has_layers = has_layers
        self._too_slow: set[Item] = set()
        self._problems: list[str] = []

    def run(self, fingerprint: MachineFingerprint) -> None:
        """Measure until all is done or the budget is spent. Of a small budget, sizes get the larger part."""
        self._measure_figures(within=_SHARE_FOR_FIGURES)
        self._measure_sizes()
        self._check_layers(fingerprint)
        self._measure_figures()

    @property
    def complete(self) -> bool:
        """Whether the most informative sizes of every series, figures and layers
        were measured, or cannot be measured here."""
        return not self._agenda.telling and not self._problems

    def remarks(self, *, stopped: bool) -> list[str]:
        """Return remarks for the reader. Where measuring was `stopped`,
        missing sizes are not blamed on lack of time."""
        said = list(self._problems)
        if (left := len(self._agenda.telling)) and not stopped:
            seconds = self._time.spent_seconds
            said.append(
                f"{left} important sizes were not measured for lack of time: {self._agenda.done} points took {seconds:.0f} s; "
                f"give --budget {self._enough_budget(left):.0f}"
            )
        return said + self._watch.remarks()

    def _enough_budget(self, left: int) -> float:
        if not self._agenda.done:  # figures and preparations alone used all of it
            return max(_USUAL_BUDGET_SECONDS, 2 * self._time.budget_seconds)
        seconds = self._time.spent_seconds * (1 + left / self._agenda.done)
        return math.ceil(max(seconds, self._time.budget_seconds + 10) / 10) * 10

    def _measure_figures(self, within: float = 1.0) -> None:
        """Measure missing figures until that share of the budget is spent."""
        for index, probe in enumerate(self._figures):
            if probe.name in self._findings.figure_probes_done:
                continue
            if not self._time.left_seconds:
                self._problems.append(f"{probe.name}: not measured for lack of time")
                continue
            if self._time.spent_seconds > within * self._time.budget_seconds:
                return
            self._tell(probe.name)
            try:
                self._findings.add(MeasuredFigures(name=probe.name, figures=self._crew.figures(index)))
            except TroubleError as trouble:
                self._findings.add(MeasuredFigures(name=probe.name, reason=str(trouble)))
            self._crew.release()

    def _measure_sizes(self) -> None:
        if self._findings.unfinished and self._time.left_seconds:
            self._measure_batch(self._findings.unfinished)
        while self._time_for_sizes and (batch := self._next_batch()):
            self._findings.begin(batch)
            self._measure_batch(batch)

    def _check_layers(self, fingerprint: MachineFingerprint) -> None:
        if not self._has_layers or self._findings.layers is not None:
            return
        if not self._time.left_seconds:
            self._problems.append("layers: not checked for lack of time")
            return
        self._tell("a layer of the model")
        try:
            layers = self._crew.check_layers(self._findings.profile(fingerprint, complete=False))
        except TroubleError as trouble:
            self._problems.append(f"layers: not checked: {trouble}")
        else:
            self._findings.add(CheckedLayers(layers=layers))

    @property
    def _time_for_sizes(self) -> float:
        """Return the seconds available for sizes. Part of the budget is reserved
        for layers, where some are still missing."""
        to_come = self._has_layers and self._findings.layers is None
        return max(0.0, self._time.left_seconds - _SHARE_FOR_LAYERS * self._time.budget_seconds * to_come)

    def _next_batch(self) -> list[Item]:
        """Return the next sizes that together fit into memory, and one by one into the remaining time."""
        usable_bytes = self._crew.usable_bytes()
        share_seconds = _SHARE_OF_ONE_SIZE * self._time_for_sizes
        for wanted in self._wanted():
            soon, later = self._affordable(wanted, share_seconds)
            if batch := self._packed(soon or later, usable_bytes):
                return batch
        return []

    def _affordable(self, wanted: Sequence[Item], share_seconds: float) -> tuple[list[Item], list[Item]]:
        """Return the first sizes that take at most `share_seconds`, a few more than a
        batch holds, and the first that takes longer."""
        soon: list[Item] = []
        later: list[Item] = []
        for item in wanted:
            if len(soon) == 2 * _SIZES_A_BATCH:
                break
            if self._fits_time(item):
                (soon if self._cost_seconds(item) <= share_seconds else later).append(item)
        return soon, later[:1]

    def _wanted(self) -> Iterator[list[Item]]:
        """Yield sizes, most informative first. Later ones are computed only when they are needed."""
        yield self._agenda.telling
        yield self._agenda.uncertain
        yield self._agenda.between()
        yield self._agenda.others

    def _fits_time(self, item: Item) -> bool:
        """Whether a size fits the time. A guess from a single point may postpone
        a size, but is too rough to leave it out."""
        if item in self._too_slow:
            return False
        return self._agenda.count(item.probe) < 2 or self._cost_seconds(item) <= self._time_for_sizes

    def _cost_seconds(self, item: Item) -> float:
        """Return the least seconds of a size: its fewest repeats, and two runs to warm up."""
        seconds = self._agenda.predicted_seconds(item)
        return 0.0 if seconds is None else seconds * (self._precision.least(seconds) + 2)

    def _packed(self, items: Sequence[Item], usable_bytes: float) -> list[Item]:
        batch: list[Item] = []
        left_bytes = usable_bytes
        for item in items:
            if any(other.probe == item.probe for other in batch) and not self._agenda.count(item.probe):
                continue  # the time of a probe's first size predicts that of the others
            needed_bytes = self._probes[item.probe].needed_bytes(item.at)
            if needed_bytes > usable_bytes:
                words = f"needs {units.size(needed_bytes)}, {units.size(usable_bytes)} may be taken"
                self._findings.add(LeftOut(key=self._findings.key(item), at=item.at, reason=words))
            elif needed_bytes <= left_bytes:
                batch.append(item)
                left_bytes -= needed_bytes
            if len(batch) == _SIZES_A_BATCH:
                break
        return batch

    def _measure_batch(self, batch: Sequence[Item]) -> None:
        self._tell(", ".join(dict.fromkeys(self._findings.key(item) for item in batch)))
        alone: list[Item] = []
        warm_seconds: dict[int, float] = {}
        for slot, item in enumerate(batch):
            try:
                seconds = self._crew.prepare(slot, item.probe, item.at)
            except TroubleError as trouble:
                if trouble.trouble == "memory" and warm_seconds:
                    alone.append(item)  # the others of the batch had taken the memory
                else:
                    self._leave_out(item, trouble)
                continue
            if seconds * self._precision.least_slow_repeats > self._time.left_seconds:
                self._too_slow.add(item)
            else:
                warm_seconds[slot] = seconds
        self._repeat(batch, warm_seconds)
        self._crew.release()
        for item in alone:
            self._measure_batch([item])

    def _repeat(self, batch: Sequence[Item], warm_seconds: dict[int, float]) -> None:
        tolerance = max(self._precision.tolerance, min(self._watch.noise, _MOST_TOLERANCE))
        rounds = Rounds(self._crew, self._watch, replace(self._precision, tolerance=tolerance), self._limits())
        rounds.measure(warm_seconds, lambda slot, samples: self._keep(batch[slot], samples))
        for slot, trouble in rounds.troubles.items():
            self._leave_out(batch[slot], trouble)

    def _keep(self, item: Item, samples: Samples) -> None:
        if not samples.median_seconds > 0:
            self._leave_out(item, TroubleError("failed", "is too short to be measured"))
            return
        point = samples.point(item.at)
        self._findings.add(MeasuredPoint(key=self._findings.key(item), point=point, outliers=samples.outliers))
        self._tell(self._findings.key(item))

    def _limits(self) -> Limits:
        sizes_left = max(_SIZES_A_BATCH, len(self._agenda.telling))
        share = _SHARE_FOR_REPEATS * self._time_for_sizes / sizes_left
        deadline = self._time.clock() + self._time_for_sizes
        return Limits(self._time.clock, deadline, min(_MOST_SECONDS_A_SIZE, max(_LEAST_SECONDS_A_SIZE, share)))

    def _leave_out(self, item: Item, trouble: TroubleError) -> None:
        self._findings.add(LeftOut(key=self._findings.key(item), at=item.at, reason=str(trouble)))

    def _tell(self, now: str) -> None:
        done = self._agenda.done
        known = done + len(self._agenda.telling)
        self._show(Progress(done=done, known=known, seconds_left=self._time.left_seconds, now=now))
