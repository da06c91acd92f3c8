"""Searches of several variants of a training spec that share one best plan: what one finds limits the next."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np

from shardwright.base import Array, SpecError
from shardwright.costmodel.op_times import OpTimes
from shardwright.planner.space import (
    NEAR_THE_BEST,
    OTHER_ORDERS_TRIED,
    UNSTATED_TRIED,
    Fixed,
    Space,
    enumerate_space,
    in_other_order,
    may_change_order,
)
from shardwright.planner.stages import Solved
from shardwright.specs import ClusterSpec, TrainingSpec
from shardwright.specs.model import ModelSpec

from .branch_and_bound import BranchAndBound, Progress

OFFLOADS = ("offload_optimizer", "offload_gradients", "offload_parameters", "offload_nvme")
"""What of an entry may be off the device."""

# This limits work, not time, so that repeated runs find the same plan.
_MOST_UNSTATED_SOLVED = 12


class Variant(NamedTuple):
    """A training spec and the search over the space with its costs."""

    training: TrainingSpec
    run: BranchAndBound


class Found(NamedTuple):
    """A solved entry, and the variant that it belongs to."""

    variant: Variant
    solved: Solved


@dataclass
class Portfolio:
    """Searches over one space, simplest variant first. They are run in the order of their lowest bounds.

    Another order of the axes over the machine is a variant too, the last. `further` variants were searched in part, and no bound
    holds for them.
    """

    given: TrainingSpec
    variants: list[Variant]
    best: Found | None = None
    further: list[Variant] = field(default_factory=list)

    @property
    def every(self) -> list[Variant]:
        """All variants, the further ones last."""
        return [*self.variants, *self.further]

    @classmethod
    def start(
        cls,
        model: ModelSpec,
        cluster: ClusterSpec,
        trainings: list[TrainingSpec],
        fixed: Fixed,
        times_of: Callable[[TrainingSpec], OpTimes],
    ) -> Self:
        """Enumerate the space, and bound its entries for each of `trainings`, which agree in what must divide.

        Raises:
            SpecError: nothing divides or can be updated, or the fixed choices contradict each other.
        """
        variants: list[Variant] = []
        spaces: dict[tuple[bool, ...], Space | SpecError] = {}
        for each in trainings:
            updates = each.method.may_leave_device, each.method.layerwise, each.method.whole_matrix
            if updates not in spaces:
                spaces[updates] = _space_or_reason(model, cluster, each, fixed)
            found = spaces[updates]
            if isinstance(found, Space):
                variants.append(Variant(each, BranchAndBound.over(found, model, each, times_of(each))))
        if not variants:
            raise next(reason for reason in spaces.values() if isinstance(reason, SpecError))
        return cls(trainings[0], variants)

    def run(self, time_limit_seconds: float, progress: Progress | None = None) -> None:
        """Search every variant below the best plan of those before it, until the time is up."""
        deadline = time.perf_counter() + time_limit_seconds
        for variant in sorted(self.variants, key=lambda each: each.run.entries.lowest()):
            self._run(variant, deadline, progress)

    def run_other_order(self, model: ModelSpec, cluster: ClusterSpec, time_limit_seconds: float) -> None:
        """Search the best few entries of the best variant in another order of the axes (space/space.py)."""
        if self.best is None or not self.complete:
            return
        training, run = self.best.variant
        most_seconds = NEAR_THE_BEST * self.best.solved.step_seconds
        may = run.entries.among(may_change_order(run.space, cluster, training))
        near = may.lowest_below(most_seconds, OTHER_ORDERS_TRIED)
        if len(near):
            space = in_other_order(run.space, np.sort(near))
            variant = Variant(training, BranchAndBound.over(space, model, training, run.times))
            (self.further if self.best.variant in self.further else self.variants).append(variant)
            self._run(variant, time.perf_counter() + time_limit_seconds)

    def run_unstated(
        self,
        model: ModelSpec,
        trainings: list[TrainingSpec],
        times_of: Callable[[TrainingSpec], OpTimes],
        time_limit_seconds: float,
    ) -> None:
        """Search a few entries of the best variant with each of `trainings`, which change what nobody stated: the entries of the
        lowest bounds, and data parallelism alone, which may not fit without such a change. Of each only so many are solved."""
        if self.best is None or not self.complete or not trainings:
            return
        deadline, run = time.perf_counter() + time_limit_seconds, self.best.variant.run
        near = run.entries.lowest_below(NEAR_THE_BEST * self.best.solved.step_seconds, UNSTATED_TRIED)
        space = run.space.only(np.union1d(near, np.flatnonzero(_data_parallel_alone(run.space))))
        for training in trainings:
            variant = Variant(training, BranchAndBound.over(space, model, training, times_of(training)))
            self.further.append(variant)
            self._run(variant, deadline, most_tried=_MOST_UNSTATED_SOLVED)

    def _run(
        self,
        variant: Variant,
        deadline: float,
        progress: Progress | None = None,
        most_tried: float = np.inf,
    ) -> None:
        run = variant.run
        run.ceiling = np.inf if self.best is None else self.best.solved.step_seconds
        run.run(deadline - time.perf_counter(), progress, most_tried=most_tried)
        if run.best is not None:
            self.best = Found(variant, run.best)

    def bound_seconds(self) -> float:
        """Lower bound on every plan of every variant but the further ones, in seconds."""
        best = np.inf if self.best is None else self.best.solved.step_seconds
        return min(best, *(variant.run.bound_seconds() for variant in self.variants))

    @property
    def complete(self) -> bool:
        return all(variant.run.complete for variant in self.variants)

    @property
    def solved(self) -> int:
        return sum(variant.run.solved for variant in self.every)

    def fastest_among(self, variants: list[Variant], most_solved: float) -> Found | None:
        """Return the best plan that is found among some variants alone by solving `most_solved` entries of each."""
        best: Found | None = None
        for variant in sorted(variants, key=lambda each: each.run.entries.lowest()):
            run = variant.run.again(np.inf if best is None else best.solved.step_seconds)
            run.run(most_solved=most_solved)
            best = best if run.best is None else Found(variant, run.best)
        return best


def _space_or_reason(model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed) -> Space | SpecError:
    try:
        return enumerate_space(model, cluster, training, fixed)
    except SpecError as reason:
        return reason


def _data_parallel_alone(space: Space) -> Array:
    """(N,): the entries without other axes than data parallelism, and with everything on the device."""
    alone = [space.column(name) == 1 for name in ("pp", "cp", "tp")]
    return np.asarray(np.all([*alone, *(space.column(name) == 0 for name in OFFLOADS)], axis=0))
