"""Why the phases of a run have their plans: what the run would take with another plan of one phase."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from shardwright.base import InfeasibleError, SpecError, units
from shardwright.costmodel.phases import Job, Switch, Switching, same_placement, switch_between
from shardwright.planner import TOLERANCE
from shardwright.planner.nearby import search_job
from shardwright.planner.space import Fixed
from shardwright.specs import ClusterSpec

from .phased import PhasesResult, PlannedPhase, forms_that_follow, plan_phases

_COUNTS_AS_NONE = 5e-4


def planned_again(
    cluster: ClusterSpec, phases: Sequence[PlannedPhase], switching: Switching
) -> tuple[PlannedPhase, ...]:
    """Return the same phases with the switches between their plans as this version predicts them.

    Raises:
        SpecError: where checkpoints lie is not known.
    """
    between = (switch_between(cluster, _job(first), _job(second), switching) for first, second in pairwise(phases))
    taken = (Switch("none", 0.0), *between)
    return tuple(phase._replace(switch=switch) for phase, switch in zip(phases, taken, strict=True))


def searched_again(
    cluster: ClusterSpec, phases: Sequence[PlannedPhase], switching: Switching, *, time_limit_seconds: float
) -> PhasesResult | None:
    """Return what a search finds for the same jobs, each with the training of its plan; None where it finds nothing.

    Raises:
        SpecError: where checkpoints lie is not known.
    """
    jobs = [(phase.steps, phase.model, phase.training) for phase in phases]
    try:
        return plan_phases(cluster, jobs, switching, time_limit_seconds=time_limit_seconds, tolerance=TOLERANCE)
    except (SpecError, InfeasibleError):
        return None


def why_these_plans(
    cluster: ClusterSpec, phases: Sequence[PlannedPhase], switching: Switching, *, time_limit_seconds: float
) -> list[str]:
    """Return a sentence for each choice between phases: what the run would take without a switch, or with the best plan of a phase that
    shares its placement with a neighbour. Each search ends after `time_limit_seconds`.

    Raises:
        SpecError: where checkpoints lie is not known.
    """
    run = _Run(cluster, tuple(phases), switching, time_limit_seconds)
    lines = []
    for place in range(len(phases)):
        if phases[place].switch.kind == "checkpoint" and phases[place].model == phases[place - 1].model:
            lines.append(run.without_the_switch(place))
        if any(run.shares(other, other + 1) for other in (place - 1, place)):
            lines.append(run.with_its_best(place))
    return [line for line in lines if line]


class _Run:
    def __init__(
        self, cluster: ClusterSpec, phases: tuple[PlannedPhase, ...], switching: Switching, limit_seconds: float
    ) -> None:
        self.cluster, self.phases, self.switching, self.limit_seconds = cluster, phases, switching, limit_seconds
        self.seconds = _seconds(planned_again(cluster, phases, switching))

    def shares(self, first: int, second: int) -> bool:
        """Whether both phases are there, and each rank holds the same under both plans; not where nothing changes at all."""
        if first < 0 or second >= len(self.phases):
            return False
        one, other = self.phases[first], self.phases[second]
        return _job(one) != _job(other) and one.model == other.model and same_placement(one.plan, other.plan)

    def without_the_switch(self, place: int) -> str:
        """Say what the run would take if this phase and the one before had one placement."""
        ways = [
            (self._with(at, found), at, found)
            for at, other in ((place, place - 1), (place - 1, place))
            for found in self._following(at, other)
        ]
        if not ways:
            return f"No plan was found that holds phases {place} and {place + 1} in one placement."
        seconds, at, found = min(ways, key=lambda way: way[0])
        other = place if at == place - 1 else place - 1
        return (
            f"Without the switch to phase {place + 1} the run would take {self._compared(seconds)}: phase {at + 1} under the placement of phase "
            f"{other + 1} ({found.plan.mesh}) takes {units.seconds(found.estimate.step_seconds)} a step."
        )

    def with_its_best(self, place: int) -> str:
        """Say what the run would take if this phase had the best plan for itself."""
        phase = self.phases[place]
        found = next(self._searched(place, Fixed()), None)
        if found is None:
            return ""
        step, own = phase.estimate.step_seconds, found.estimate.step_seconds
        if own >= step * (1 - _COUNTS_AS_NONE):
            return f"Phase {place + 1} keeps the placement of a neighbour, and no faster plan was found for it alone."
        return (
            f"Phase {place + 1} keeps the placement of a neighbour. With its best plan alone ({found.plan.mesh}, {units.seconds(own)} a step) "
            f"the run would take {self._compared(self._with(place, found))}."
        )

    def _following(self, place: int, other: int) -> Iterator[PlannedPhase]:
        """The phase at `place` under the best plans that hold what those of the `other` one hold."""
        kept = self.phases[other].plan
        for form in forms_that_follow(kept, Fixed()):
            yield from (found for found in self._searched(place, form) if same_placement(found.plan, kept))

    def _searched(self, place: int, fixed: Fixed) -> Iterator[PlannedPhase]:
        """The phase under the best plan for it, where one was found."""
        phase = self.phases[place]
        limits = {"time_limit_seconds": self.limit_seconds, "runners_up": 0, "tolerance": TOLERANCE}
        try:
            result = search_job(phase.model, self.cluster, phase.training, fixed=fixed, **limits).result
        except (SpecError, InfeasibleError):
            return
        yield phase._replace(training=result.training, plan=result.plan, estimate=result.estimate)

    def _with(self, place: int, phase: PlannedPhase) -> float:
        """Seconds of the run with another plan of the phase at `place`."""
        changed = (*self.phases[:place], phase, *self.phases[place + 1 :])
        return _seconds(planned_again(self.cluster, changed, self.switching))

    def _compared(self, seconds: float) -> str:
        change = seconds / self.seconds - 1
        if abs(change) < _COUNTS_AS_NONE:
            return f"as long, {units.seconds(seconds)}"
        return f"{units.seconds(seconds)}, {abs(change):.1%} {'more' if change > 0 else 'less'}"


def _job(phase: PlannedPhase) -> Job:
    return Job(phase.model, phase.training, phase.plan)


def _seconds(phases: Sequence[PlannedPhase]) -> float:
    return sum(phase.seconds + phase.switch.seconds for phase in phases)
