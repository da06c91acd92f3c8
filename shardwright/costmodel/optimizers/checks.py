"""Where an optimizer can update a model: what it trains, and how a plan divides that."""

import numpy as np

from shardwright.base import Array, SpecError
from shardwright.specs import Candidates, Optimizer, Plan, TrainingSpec
from shardwright.specs.model import MixtureOfExperts, ModelSpec


def check_optimizer(model: ModelSpec, training: TrainingSpec) -> None:
    """Check that the optimizer updates what the model trains.

    Raises:
        SpecError: the method needs whole matrices, and the model has experts, or only a part is trained.
    """
    method = training.method
    if not method.whole_matrix:
        return
    if any(isinstance(block.ffn, MixtureOfExperts) for block in model.layer_classes):
        raise SpecError(
            f"optimizer {method} needs whole matrices, and the stacked ones of the experts of {model.name} are not available; "
            "give adamw, sgd, lion or adamw8bit"
        )
    if not training.trainable.trains_all:
        raise SpecError(
            f"optimizer {method} updates whole matrices of every layer, not trainable '{training.trainable}'"
        )


def can_update(method: Optimizer, candidates: Candidates) -> Array:
    """(N,): whether the optimizer can update: with its state on the device unless it may leave that; layer by layer in the backward pass in
    one microbatch, without a pipeline and approximate agreement, and with whole matrices on each rank where the method needs them."""
    can = (candidates.offload_optimizer == 0) | method.may_leave_device
    if method.layerwise:
        whole = (candidates.tp * candidates.shards == 1) | (not method.whole_matrix)
        can = can & (candidates.microbatches == 1) & (candidates.pp == 1) & ~candidates.approximates & whole
    return np.asarray(can)


def check_updates(plan: Plan, training: TrainingSpec) -> None:
    """Check that the optimizer can update under a plan.

    Raises:
        SpecError: it cannot; see `can_update`.
    """
    candidate = Candidates.of(plan)
    if not can_update(training.method, candidate).all():
        raise SpecError(why_not_updated(training, candidate))


def why_not_updated(training: TrainingSpec, candidates: Candidates) -> str:
    """Say why the optimizer can update none of the candidates."""
    method = training.method
    if not method.may_leave_device and (candidates.offload_optimizer > 0).all():
        return off_device(training)
    if (candidates.microbatches > 1).all():
        return (
            f"optimizer {method} updates a layer in its only backward pass, and a global batch of {training.global_batch} takes "
            "several; give a batch that one microbatch of each data-parallel rank holds, or leave out layerwise"
        )
    whole = ", nor with matrices that tp or ZeRO splits" if method.whole_matrix else ""
    return (
        f"optimizer {method} updates a layer before the other gradients are there, which does not go with pp and approximate "
        f"sync{whole}; leave out these, or layerwise"
    )


def off_device(training: TrainingSpec) -> str:
    """Say that the optimizer cannot be updated where it would be."""
    return f"optimizer {training.method} has no update off the device; leave its state there (--offload-optimizer 0), or give adamw"
