"""The largest microbatch or global batch that fits, and the tokens/s by batch."""

from typing import Any

from shardwright.base import SpecError, divisors
from shardwright.planner.space import Fixed
from shardwright.specs import MOST_PER_STEP, ClusterSpec, TrainingSpec
from shardwright.specs.model import ModelSpec

from .asking import Asker, Job, Largest
from .climbing import largest

MOST_TIMES = 64


def largest_micro_batch(
    model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, *, fixed: Fixed | None = None, **options: Any
) -> Largest:
    """Return the largest number of sequences of a microbatch with which `search` finds a plan for the job's global batch.

    Tried are divisors of the global batch, because microbatches and data-parallel ranks share it evenly: all of up to 24, of more
    those that `climbing.largest` says. `options` are those of `search`.

    Raises:
        SpecError: a microbatch is fixed; as `search`.
        InfeasibleError: not even one sequence fits.
    """
    fixed = fixed or Fixed()
    if fixed.micro_batch is not None:
        raise SpecError(f"micro_batch {fixed.micro_batch} is fixed, and it is what is asked for; leave it out")
    sizes = divisors(training.global_batch)

    def job(size: int) -> Job:
        return Job(model, cluster, training, fixed.but(micro_batch=size))

    asker = Asker(job, options)
    number = largest(len(sizes), lambda place: asker.verdict(sizes[place - 1]))
    return asker.largest(sizes, number)


def largest_global_batch(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    *,
    up_to: int | None = None,
    fixed: Fixed | None = None,
    **options: Any,
) -> Largest:
    """Return the largest global batch for which `search` finds a plan, in multiples of that of `training`, up to `up_to` sequences.

    `up_to` None: 64 times that of `training`. Microbatches accumulate gradients, so that often every batch fits; the cases then show
    where tokens/s stop to grow. `climbing.largest` says which are tried. `options` are those of `search`.

    Raises:
        SpecError: `up_to` is less than the batch; as `search`.
        InfeasibleError: not even the batch of `training` fits.
    """
    unit = training.global_batch
    most = min(MOST_TIMES * unit, MOST_PER_STEP) if up_to is None else up_to
    if not unit <= most <= MOST_PER_STEP:
        raise SpecError(f"batches up to {most} sequences: give a number from the batch {unit} to {MOST_PER_STEP}")
    batches = range(unit, most + 1, unit)

    def job(batch: int) -> Job:
        return Job(model, cluster, training.model_copy(update={"global_batch": batch}), fixed or Fixed())

    asker = Asker(job, options)
    number = largest(len(batches), lambda place: asker.verdict(batches[place - 1]))
    return asker.largest(batches, number)
