"""Pipelines whose microbatches leave out stages (SkipPipe), beside what a search found. They are not in its space: no bound covers them.

The best 1F1B plan of each number of stages is taken, and its layers are dealt anew: a stage that three of four microbatches pass gets more of them than
the first and the last stage, which all pass.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from typing import Any

from shardwright.base import InfeasibleError, SpecError, divisors
from shardwright.costmodel import Prediction, estimate_plan, fastest
from shardwright.planner import search
from shardwright.planner.branching import SearchResult
from shardwright.planner.space import Fixed, OpenChoices
from shardwright.specs import (
    POLICIES,
    SKIPPIPE,
    ClusterSpec,
    LayerRun,
    Plan,
    ScheduleName,
    Stage,
    Sync,
    TrainingSpec,
    even_stages,
    has_shape,
    visits,
)
from shardwright.specs.model import ModelSpec

_SCHEDULE: ScheduleName = "skippipe-25"
_NEAR = 2  # layers of an end beside those that balance it


def skipping(
    result: SearchResult, model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, fixed: Fixed, **options: Any
) -> SearchResult:
    """Return the result with the fastest plan that leaves out stages, if `fixed` offers it and it is faster. `options` are those of `search`."""
    if (
        SKIPPIPE not in fixed.approximate
        or not fixed.allows("schedule", _SCHEDULE)
        or fixed.stages
        or training.mtp_layers
    ):
        return result
    options = {**options, "may_choose": OpenChoices(), "runners_up": 0, "list_trade_offs": False}
    every, best = fixed.but(approximate=(), sync=Sync(), schedule=None), result
    for pp in (pp for pp in divisors(cluster.devices) if pp <= model.layer_count and fixed.allows("pp", pp)):
        if not has_shape(_SCHEDULE, pp, pp, training.global_batch):
            continue
        try:
            base = search(
                model, cluster, training, fixed=every.but(pp=pp, schedule="1f1b", stages_per_rank=1), **options
            )
            found = _fastest(base, model, cluster)
        except (SpecError, InfeasibleError):
            continue
        if found.too_large is None and found.estimate.step_seconds < best.estimate.step_seconds:
            best = replace(best, plan=found.plan, estimate=found.estimate, training=base.training)
            best = replace(best, fastest=None, trade_offs=(), as_given=())
    return best


def _fastest(base: SearchResult, model: ModelSpec, cluster: ClusterSpec) -> Prediction:
    return fastest(model, cluster, base.training, _plans(base.plan), estimate_plan)


def _plans(plan: Plan) -> Iterator[Plan]:
    """Yield plans of the same mesh with layers dealt to paths, with each recomputation in all layers."""
    pp, layers, zero = plan.mesh.pp, plan.layer_count, plan.zero_stage
    if not has_shape(_SCHEDULE, pp, pp, plan.microbatches) or plan.vocabulary_parallel != "none":
        return
    share = visits(_SCHEDULE, pp, pp, plan.microbatches)[1] / plan.microbatches
    end = layers * share / (pp - 2 + 2 * share)
    ends = range(max(1, int(end) - _NEAR), ceil(end) + 1)
    for first, last, policy in ((first, last, policy) for first in ends for last in ends for policy in POLICIES):
        if (between := layers - first - last) < pp - 2:
            continue
        counts = (first, *even_stages(between, pp - 2), last)
        runs = (LayerRun(count=count, zero_stage=zero, recompute=policy) for count in counts)
        stages = tuple(Stage(layers=(run,)) for run in runs)
        yield Plan(**{**dict(plan), "schedule": _SCHEDULE, "stages": stages})
