"""The step and the memory of many plans at once, by the cost tables and sums that `estimate_plan` is made of.

`tests/planner/test_brute_force.py` holds them against the estimates of single plans.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np

from shardwright.base.arrays import Array
from shardwright.base.errors import SpecError
from shardwright.costmodel.checks import check_plan
from shardwright.costmodel.op_times.choice import op_times
from shardwright.costmodel.op_times.protocol import OpTimes
from shardwright.costmodel.pipeline.step import step_seconds
from shardwright.costmodel.tables.build import build_tables
from shardwright.costmodel.tables.memory import fixed_bytes, host_share_bytes, nvme_share_bytes, usable_bytes
from shardwright.costmodel.tables.rows import RowCosts, ends_of, rank_bytes, stage_seconds
from shardwright.costmodel.tables.stage_sums import candidates_of, layer_mixes
from shardwright.specs.candidates import Candidates
from shardwright.specs.cluster import ClusterSpec
from shardwright.specs.model.model import ModelSpec
from shardwright.specs.plan import Plan, Strategy
from shardwright.specs.plan.stage import strategies_of
from shardwright.specs.training import TrainingSpec


@dataclass(frozen=True)
class PricedPlans:
    """Plans (N) that differ in their stages alone: step seconds (N,), peak bytes of the fullest rank (N,), and which fit (N,)."""

    plans: list[Plan]
    step_seconds: Array
    peak_bytes: Array
    fits: Array

    @property
    def fitting(self) -> Iterator[tuple[Plan, float, float]]:
        """Yield each plan that fits, with its step and its peak."""
        for index in np.flatnonzero(self.fits):
            yield self.plans[index], float(self.step_seconds[index]), float(self.peak_bytes[index])


def priced_plans(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, plans: Iterable[Plan], times: OpTimes | None = None
) -> list[PricedPlans]:
    """Price plans of nodes of one kind whose layers share one ZeRO stage. Those that do not divide are left out."""
    times, model = times or op_times(cluster, training), model.trained_as(training.trainable)
    alike: dict[tuple[object, ...], list[Plan]] = {}
    for plan in plans:
        alike.setdefault(_but_for_stages(plan), []).append(plan)
    groups = [group for group in alike.values() if _divides(group[0], model, cluster, training)]
    if not groups:
        return []
    strategies = strategies_of(stage for group in groups for plan in group for stage in plan.stages)
    candidates = _joined([candidates_of(group[0]) for group in groups])
    rows = RowCosts.of(build_tables(model, training, candidates, times, strategies=strategies))
    fixed = fixed_bytes(candidates, times.node, times.constants, training.software)
    job = model, times, strategies
    return [_priced(group, rows[index], float(fixed[index]), *job) for index, group in enumerate(groups)]


def _priced(
    plans: list[Plan],
    rows: RowCosts,
    fixed: float,
    model: ModelSpec,
    times: OpTimes,
    strategies: tuple[Strategy, ...],
) -> PricedPlans:
    one, node = plans[0], times.node
    mixes = np.stack([layer_mixes(model, plan.stages, strategies=strategies)[0] for plan in plans])
    ends = ends_of(len(one.stages), spread=one.vocabulary_parallel != "none")
    costs = stage_seconds(rows, mixes, ends).costs(one.schedule, one.mesh.pp, rows.send)
    found = rank_bytes(rows, one.schedule, one.mesh.pp, one.microbatches, mixes, one.vocabulary_parallel)
    device = found.device + fixed
    ranks_fit = (device <= usable_bytes(node.device, times.constants)) & (found.host <= host_share_bytes(node))
    ranks_fit &= found.nvme <= nvme_share_bytes(node)
    seconds = np.broadcast_to(step_seconds(one.schedule, costs, one.microbatches), len(plans))
    return PricedPlans(plans, seconds, device.max(axis=-1), np.asarray(ranks_fit.all(axis=-1)))


def _but_for_stages(plan: Plan) -> tuple[object, ...]:
    return plan.zero_stage, *(getattr(plan, name) for name in type(plan).model_fields if name != "stages")


def _divides(plan: Plan, model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec) -> bool:
    try:
        check_plan(plan, model, cluster, training)
    except SpecError:
        return False
    return True


def _joined(each: list[Candidates]) -> Candidates:
    return Candidates(**{f.name: np.concatenate([getattr(one, f.name) for one in each]) for f in fields(Candidates)})
