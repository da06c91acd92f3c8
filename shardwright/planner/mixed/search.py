"""The best plan on a mixed cluster: pipelines through its groups, replicas in them, and plans on each part whose nodes are all equal."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import combinations
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from shardwright.base import Array, InfeasibleError, SpecError, listed, units
from shardwright.costmodel import check_optimizer, check_trainable, estimate_plan
from shardwright.costmodel.op_times import op_times
from shardwright.planner import TOLERANCE, search
from shardwright.planner.branching import BranchAndBound, SearchResult
from shardwright.planner.space import Fixed, OpenChoices, check_runs, kept_by, last_resorts
from shardwright.planner.stages import CriticalPaths, plan_of
from shardwright.specs import ClusterSpec, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

from .arrangement import Arrangement, all_on_the_link_between, arrangements, merged
from .bounds import step_bounds
from .replica_search import ReplicaSearch
from .replica_space import ReplicaSpace
from .sharp_bounds import sharp_bounds
from .solve import solve

Across = Literal["pipeline", "replicas"]
ACROSS: tuple[Across, ...] = get_args(Across)
"""What may reach over groups: the stages of a pipeline, or data parallelism with whole replicas in each group."""

_ROUNDING = 1e-9
_FIRST_BATCH = 256
_GROWTH = 4


class MixedResult(NamedTuple):
    """The result of a search, the cluster that it is for (its groups in the order of the pipeline), and sentences about it."""

    result: SearchResult
    cluster: ClusterSpec
    notes: tuple[str, ...]


def search_mixed(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    *,
    fixed: Fixed | None = None,
    may_choose: OpenChoices | None = None,
    time_limit_seconds: float = 30.0,
    across: Collection[Across] = ACROSS,
    **options: Any,
) -> MixedResult:
    """Search a mixed cluster: pipelines through groups in every order, replicas in several groups, and each group alone.

    `across` says what may reach over groups; with nothing, the plan is for one group. `options` are those of `search`, and hold for a
    group alone. The result is never slower than the fastest plan on any group alone.

    Raises:
        SpecError: nothing divides, or the fixed choices contradict each other, the software or a mixed cluster.
        InfeasibleError: plans divide, but none fits the memory.
    """
    may_choose = may_choose and may_choose.stated
    if may_choose not in (None, OpenChoices()):
        raise SpecError(
            f"{cluster.name} is a mixed cluster, on which the training spec stays as given; leave out 'auto', --allow-precision and --allow-approximate"
        )
    fixed = kept_by(fixed or Fixed(), training)
    check_trainable(model, training)
    check_optimizer(model, training)
    if fixed.stages is None:
        check_runs(training, fixed)
    whole = merged(cluster)
    for tried in last_resorts(fixed) if fixed.stages is None else [fixed]:
        run = _Search(model, whole, training, tried, time.perf_counter() + time_limit_seconds, frozenset(across))
        run.run()
        if run.best is not None or run.best_part is not None:
            return run.result(fixed, options | {"may_choose": may_choose, "time_limit_seconds": time_limit_seconds})
    raise run.nothing()


class _Found(NamedTuple):
    """A plan over several groups: its step, the groups in their order, and the plan, which is made when it is asked for."""

    step_seconds: float
    cluster: ClusterSpec
    plan: Callable[[], Plan]


@dataclass
class _Search:
    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec
    fixed: Fixed
    deadline: float
    across: frozenset[Across]
    started: float = field(default_factory=time.perf_counter)
    best: _Found | None = None
    best_part: tuple[ClusterSpec, float] | None = None
    bound_seconds: float = np.inf
    entries: int = 0
    solved: int = 0
    complete: bool = True
    reasons: list[str] = field(default_factory=list)
    paths: dict[tuple[object, ...], CriticalPaths] = field(default_factory=dict)

    @cached_property
    def trained(self) -> ModelSpec:
        """The model with what is trained of it."""
        return self.model.trained_as(self.training.trainable)

    @property
    def limit(self) -> float:
        """Seconds of the best plan so far."""
        mixed = np.inf if self.best is None else self.best.step_seconds
        return min(mixed, np.inf if self.best_part is None else self.best_part[1])

    def run(self) -> None:
        """Search replicas, then the arrangements together, entries by their bounds, below the best of these, and then each uniform part
        below the best of both."""
        uniform = [self.cluster.alone(index) for index in range(len(self.cluster.groups))]
        ordered = list(arrangements(self.cluster)) if "pipeline" in self.across else []  # refuses before any search
        if "replicas" in self.across and self.fixed.stages is None:
            self._replicas()
        if "pipeline" in self.across:
            found = list(self._arranged(ordered, uniform))
            bounds = [step_bounds(each, each.allowed) for each in found]
            if found:
                self._mixed(found, bounds)
        for part in uniform:
            self._alone(part)
        joined = all_on_the_link_between(self.cluster)
        if joined is not None and self.across:
            self._alone(joined, by_share=TOLERANCE)

    def _replicas(self) -> None:
        """Search replicas in any two groups or more, those with most devices first."""
        indices = range(len(self.cluster.groups))
        chosen = [some for count in indices[1:] for some in combinations(indices, count + 1)]
        parts = [self.cluster.in_order(some) for some in chosen]
        for part in sorted(parts, key=lambda one: -one.devices):
            if not part.is_mixed:
                continue  # one of the uniform parts
            try:
                space = ReplicaSpace.of(part, self.trained, self.training, self.fixed)
            except SpecError as reason:
                self.reasons.append(str(reason))
                continue
            run = ReplicaSearch(space, self.limit)
            run.run(self.deadline)
            self.entries, self.solved = self.entries + len(space.space), self.solved + run.solved
            self.complete = self.complete and run.complete
            self.bound_seconds = min(self.bound_seconds, run.bound_seconds)
            if run.best is not None:
                self.best = _Found(run.limit, part, run.plan)

    def _arranged(self, orders: list[ClusterSpec], uniform: list[ClusterSpec]) -> Iterator[Arrangement]:
        """Yield the arrangements that have a space."""
        for ordered in orders:
            if not ordered.is_mixed:
                uniform.append(ordered)
                continue
            try:
                arrangement = Arrangement.of(ordered, self.trained, self.training, self.fixed)
            except SpecError as reason:
                self.reasons.append(str(reason))
                continue
            self.entries += len(arrangement.space)
            yield arrangement

    def _mixed(self, found: list[Arrangement], bounds: list[Array]) -> None:
        """Solve entries in batches of ascending bounds, each batch by its sharp bounds."""
        which = np.repeat(np.arange(len(found)), [len(each) for each in bounds])
        entry, bound = np.concatenate([np.arange(len(each)) for each in bounds]), np.concatenate(bounds)
        order, done, size = np.argsort(bound, kind="stable"), 0, _FIRST_BATCH
        order = order[np.isfinite(bound[order])]
        while done < len(order) and bound[order[done]] < self.limit * (1 - _ROUNDING):
            batch = order[done : done + size]
            batch = batch[bound[batch] < self.limit]
            done, size = done + size, size * _GROWTH
            for index, arrangement in enumerate(found):
                mine = batch[which[batch] == index]
                if len(mine):
                    arrangement.priced(entry[mine])
                    sharp = sharp_bounds(arrangement, entry[mine], arrangement.allowed)
                    bound[mine] = np.maximum(bound[mine], sharp)
            if not self._solve_all([(found[which[at]], int(entry[at]), float(bound[at])) for at in batch]):
                self.bound_seconds = min(self.bound_seconds, float(bound[order].min()))
                return

    def _solve_all(self, entries: list[tuple[Arrangement, int, float]]) -> bool:
        """Solve entries in the order of their bounds; False where the time is up before all that may be better are solved."""
        for arrangement, entry, bound in sorted(entries, key=lambda one: one[2]):
            if not bound < self.limit * (1 - _ROUNDING):
                return True
            if np.isfinite(self.limit) and time.perf_counter() > self.deadline:
                self.complete = False
                return False
            better, least = solve(arrangement, entry, self.limit, self.paths)
            self.solved += 1
            self.bound_seconds = min(self.bound_seconds, max(bound, least))
            if better is not None:
                made = partial(plan_of, better, arrangement.space, self.trained)
                self.best = _Found(better.step_seconds, arrangement.cluster, made)
        return True

    def _alone(self, part: ClusterSpec, *, by_share: float = 0.0) -> None:
        """Search equal nodes for a plan that is faster than the best so far `by_share`; with a share they are no part of the cluster
        as it is, and do not count in the bound."""
        try:
            times = op_times(part, self.training)
            run = BranchAndBound.start(self.model, part, self.training, self.fixed, times)
        except SpecError as reason:
            self.reasons.append(str(reason))
            return
        run.ceiling = self.limit * (1 - by_share)
        run.run(self.deadline - time.perf_counter())
        self.entries, self.solved = self.entries + len(run.space), self.solved + run.solved
        self.complete = self.complete and run.complete
        if not by_share:
            self.bound_seconds = min(self.bound_seconds, run.bound_seconds())
        if run.best is not None:
            self.best_part = (part, run.best.step_seconds)

    def result(self, fixed: Fixed, options: dict[str, Any]) -> MixedResult:
        """The best plan with its cluster."""
        if self.best_part is not None:
            return self._of_part(self.best_part[0], fixed, options)
        assert self.best is not None
        plan, cluster = self.best.plan(), self.best.cluster
        estimate = estimate_plan(self.model, cluster, self.training, plan)
        result = SearchResult(
            plan=plan,
            estimate=estimate,
            training=self.training,
            given=self.training,
            bound_seconds=min(self.bound_seconds, estimate.step_seconds),
            candidates_total=self.entries,
            candidates_solved=self.solved,
            complete=self.complete,
            seconds=time.perf_counter() - self.started,
            fixed=fixed,
            runners_up=(),
        )
        where = _shares(plan, cluster) if plan.replicas else _where(plan, cluster)
        return MixedResult(result, cluster, (where, *self._left_out(cluster)))

    def _of_part(self, part: ClusterSpec, fixed: Fixed, options: dict[str, Any]) -> MixedResult:
        """What a user sees who asks for this part alone."""
        return MixedResult(
            search(self.model, part, self.training, fixed=fixed, **options), part, tuple(self._left_out(part))
        )

    def _left_out(self, used: ClusterSpec) -> Iterator[str]:
        """Say which groups the plan leaves idle, and why."""
        left = Counter({group.device.name: 0 for group in self.cluster.groups})
        for cluster, sign in ((self.cluster, 1), (used, -1)):
            for group in cluster.groups:
                left[group.device.name] += sign * group.devices
        idle = listed([f"{count} {name}" for name, count in left.items() if count])
        if not idle:
            if not used.is_mixed and self.cluster.between is not None:
                yield "All nodes count as joined by the link between the groups alone."
            return
        if not self.across:
            why = "a plan is asked for that reaches over no link between groups"
        elif self.best is None:
            why = "no plan with them divides and fits" if not self.reasons else self.reasons[0]
        elif self.best_part is None:
            why = "no plan on all of them is faster"
        else:
            why = f"the fastest plan found across groups takes {units.seconds(self.best.step_seconds)}"
        yield f"The plan leaves {idle} idle: {why}."

    def nothing(self) -> SpecError | InfeasibleError:
        """The error where no plan was found."""
        if not self.entries:
            return SpecError(self.reasons[0])
        return InfeasibleError(
            f"no plan fits the memory, neither across the groups of {self.cluster.name} nor on one of them alone"
        )


def _where(plan: Plan, cluster: ClusterSpec) -> str:
    """Which ranks of the pipeline lie in which group, and how many layers these hold."""
    groups = cluster.groups_of_ranks(plan.mesh.pp, plan.mesh.ranks // plan.mesh.pp)
    parts = []
    for index, group in enumerate(cluster.groups):
        ranks = [rank for rank, of in enumerate(groups) if of == index]
        layers = listed([plan.stages[rank].layer_count for rank in ranks])
        name = f"rank {ranks[0]} is" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]} are"
        parts.append(f"{name} on {group.device.name} with {layers} layers")
    return f"Pipeline {'; '.join(parts)}."


def _shares(plan: Plan, cluster: ClusterSpec) -> str:
    """How many replicas each group has, and which share of the batch."""
    parts = []
    for group, replicas in zip(cluster.groups, plan.replicas, strict=True):
        each = replicas.micro_batch * replicas.microbatches * plan.mesh.dp_shard
        noun, verb = ("replica", "takes") if replicas.count == 1 else ("replicas", "take")
        named = f"{replicas.count} {noun} on {group.devices} {group.device.name}"
        parts.append(f"{named} {verb} {each * replicas.count} of {plan.global_batch} sequences")
    return f"Data parallelism reaches over the groups: {'; '.join(parts)}."
