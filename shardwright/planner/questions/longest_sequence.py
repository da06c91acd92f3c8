"""The longest sequence that fits."""

import math
from typing import Any

from shardwright.base import SpecError, divisors
from shardwright.planner.space import Fixed
from shardwright.specs import MOST_PER_STEP, ClusterSpec, TrainingSpec
from shardwright.specs.model import ModelSpec

from .asking import Asker, Job, Largest, Row, odd_factor
from .climbing import largest

STEP = 1024


def longest_sequence(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    *,
    step: int = STEP,
    batch_tokens: int | None = None,
    fixed: Fixed | None = None,
    **options: Any,
) -> Largest:
    """Return the longest sequence for which `search` finds a plan, in multiples of `step` tokens; the next one does not fit.

    The step is made a multiple of what fixed `tp` and `cp` must divide. `training.seq_len` is not read. The global batch is that
    of `training`; with `batch_tokens` it is that many tokens, and only lengths that divide it are tried. `climbing.largest` says
    which lengths are tried. A model with learned positions ends there. `options` are those of `search`.

    Raises:
        SpecError: the step is no whole number from 1; no length divides `batch_tokens`; as `search`.
        InfeasibleError: not even the shortest fits.
    """
    fixed = fixed or Fixed()
    lengths = _lengths(model, fixed, step, batch_tokens)

    def job(length: int) -> Job:
        changes = {"seq_len": length}
        if batch_tokens is not None:
            changes["global_batch"] = batch_tokens // length
        return Job(model, cluster, training.model_copy(update=changes), fixed)

    asker = Asker(job, options)
    coarse = odd_factor(cluster.devices) if batch_tokens is None else []
    number = largest(len(lengths), lambda place: asker.verdict(lengths[place - 1]), coarse)
    return asker.largest(lengths, number)


def _lengths(model: ModelSpec, fixed: Fixed, step: int, batch_tokens: int | None) -> Row:
    if step < 1:
        raise SpecError(f"step {step}: give a whole number of tokens from 1, such as {STEP}")
    split = (fixed.tp or 1) * (2 * fixed.cp if fixed.cp and fixed.cp > 1 else 1)
    unit = math.lcm(step, split)
    most = min(model.positions or MOST_PER_STEP, MOST_PER_STEP)
    if unit > most:
        raise SpecError(f"step {unit} is more than the {most} tokens that {model.name} reaches; give a smaller step")
    if batch_tokens is None:
        return range(unit, most + 1, unit)
    lengths = [length for length in divisors(batch_tokens) if length % unit == 0 and length <= most]
    if not lengths:
        nearest = max(unit, round(batch_tokens / unit) * unit)
        raise SpecError(
            f"a global batch of {batch_tokens} tokens holds no whole sequence in steps of {unit}; give a multiple, such as {nearest}"
        )
    return lengths
