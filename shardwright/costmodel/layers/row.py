"""The work of one row of the cost tables (a layer, the embedding, the head) on its rank, before data parallelism."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from shardwright.base import Array
from shardwright.specs import POLICIES


@dataclass(frozen=True)
class RowWork:
    """Work of one microbatch. Shapes are (N,), with a last axis of recompute policies where the name says `by_policy`.

    `gradient_sum_seconds`: summing over tp the gradients of weights that every rank holds whole, as one microbatch makes them;
    `added_`: as several add up. `uneven` are the standard deviations of passes whose microbatches hold other documents.
    `weight_gradient_seconds` is part of `backward_seconds`. Seconds are those of the device alone. `parameters` counts
    the trained elements on one tp rank, except experts on the ranks of ep, which are `expert_parameters`. `whole_parameters` are those of `parameters` that
    every tp rank holds whole, but for adapters. `frozen_bytes` and
    `expert_frozen_bytes` are those of frozen weights, in the format in which they lie.
    """

    forward_seconds: Array
    backward_seconds: Array
    weight_gradient_seconds: Array
    recompute_seconds_by_policy: Array
    tensor_parallel_forward_seconds: Array
    tensor_parallel_backward_seconds_by_policy: Array
    gradient_sum_seconds: Array
    added_gradient_sum_seconds: Array
    context_parallel_forward_seconds: Array
    context_parallel_backward_seconds_by_policy: Array
    expert_parallel_forward_seconds: Array
    expert_parallel_backward_seconds_by_policy: Array
    uneven_forward_seconds: Array
    uneven_backward_seconds_by_policy: Array
    activation_bytes_by_policy: Array
    working_bytes_by_policy: Array
    parameters: Array
    whole_parameters: Array
    expert_parameters: Array
    frozen_bytes: Array
    expert_frozen_bytes: Array

    def with_copy(self, of: "RowWork", share: Array | float) -> "RowWork":
        """Return the same work with so large a share of the parameters that `of` has outside experts, trained and frozen."""
        return replace(
            self,
            parameters=self.parameters + share * of.parameters,
            whole_parameters=self.whole_parameters + share * of.whole_parameters,
            frozen_bytes=self.frozen_bytes + share * of.frozen_bytes,
        )

    def without_parameters(self) -> "RowWork":
        """Return the same work with parameters that another row counts."""
        nothing = np.zeros_like(self.parameters)
        return replace(self, parameters=nothing, whole_parameters=nothing, frozen_bytes=nothing)


def together(rows: Sequence[RowWork]) -> RowWork:
    """Return the work of `rows` one after the other, none of it recomputed. Of their working memory the largest counts."""

    def total(name: str) -> Array:
        values = [getattr(row, name) for row in rows]
        if name.endswith("_by_policy"):
            values = [value[..., :1] + np.zeros(len(POLICIES)) for value in values]
        return np.asarray(np.max(np.broadcast_arrays(*values), axis=0) if name.startswith("working") else sum(values))

    return RowWork(**{field.name: total(field.name) for field in fields(RowWork)})


def mean(row: RowWork, other: RowWork, share: float) -> RowWork:
    """Return the mean work, where `other` is that of `share` of the layers."""
    pairs = ((field.name, getattr(row, field.name), getattr(other, field.name)) for field in fields(RowWork))
    return RowWork(**{name: (1 - share) * one + share * two for name, one, two in pairs})


def by_policy(*, none: Array, selective: Array, full: Array) -> Array:
    """Stack the three on a last axis, in the order of `POLICIES`."""
    by_name = {"none": none, "selective": selective, "full": full}
    return np.stack([by_name[policy] for policy in POLICIES], axis=-1)


def repeated_when_full(forward: Array, backward: Array) -> Array:
    """Return a backward by policy, of a part whose forward full recompute runs again."""
    return by_policy(none=backward, selective=backward, full=backward + forward)


def without_backward(row: RowWork) -> RowWork:
    """Return the forward of `row` alone, where no gradient is asked for: autograd keeps nothing, and a pass works in what a
    backward without recompute would."""
    nothing = {
        field.name: np.zeros_like(getattr(row, field.name))
        for field in fields(RowWork)
        if "backward" in field.name
        or "gradient_sum" in field.name
        or field.name.startswith(("weight_gradient", "recompute", "activation"))
    }
    working = np.repeat(row.working_bytes_by_policy[..., :1], len(POLICIES), axis=-1)
    return replace(row, **nothing, working_bytes_by_policy=working)
