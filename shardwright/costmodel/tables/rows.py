"""Rows: one value for each layer class, the embedding and the head; and the costs of stages that hold them.

A stage is a number of layers of each class under each recompute policy. The first stage also holds the embedding, the
last one the head. Every cost of a stage is a sum, or a maximum, over its rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.pipeline import StageCosts, peak_activation_bytes, waiting_bytes
from shardwright.specs import ScheduleName, VocabularyParallel, by_rank, stage_ranks

from .cost_tables import CostTables, Seconds
from .memory import HeldBytes


@dataclass(frozen=True)
class Rows:
    """Values of the rows, with leading axes over candidates or none.

    Attributes:
        layers: (..., K) for K layer classes, or (..., K, P) where the recompute policy matters.
        first, last: (...), the embedding's and the head's.
    """

    layers: Array
    first: Array
    last: Array

    @classmethod
    def of(cls, values: Array) -> "Rows":
        """From `values` (..., R), the rows of a cost table."""
        return cls(values[..., :-2], values[..., -2], values[..., -1])

    @classmethod
    def by_policy(cls, values: Array) -> "Rows":
        """From `values` (..., R, P): the ends have one policy, the first."""
        return cls(values[..., :-2, :], values[..., -2, 0], values[..., -1, 0])

    def __getitem__(self, index: Any) -> "Rows":
        return Rows(self.layers[index], self.first[index], self.last[index])

    def __add__(self, other: "Rows") -> "Rows":
        return Rows(self.layers + other.layers, self.first + other.first, self.last + other.last)

    def each(self, change: Callable[[Array], Array]) -> "Rows":
        """Return the rows with `change` made to each of their arrays."""
        return Rows(change(self.layers), change(self.first), change(self.last))

    def times(self, factor: Array) -> "Rows":
        """Multiply every value of a candidate by its `factor` (...), for rows that do not depend on the policy."""
        return Rows(self.layers * factor[..., None], self.first * factor, self.last * factor)

    def cheapest(self, policies: list[int]) -> "Rows":
        """The minimum of each row over those policies, for rows that depend on the policy."""
        return Rows(self.layers[..., policies].min(axis=-1), self.first, self.last)

    def of_model(self, whole: IntArray) -> Array:
        """(N,): the sum over a model that has `whole` (K,) layers of each class, for rows that do not depend on the policy."""
        return np.asarray(self.layers @ whole + self.first + self.last)

    def weighted(self, factor: float) -> "Rows":
        """Multiply every value by one factor."""
        return Rows(factor * self.layers, factor * self.first, factor * self.last)

    @property
    def depends_on_policy(self) -> bool:
        """Whether the layers have an axis over recompute policies."""
        return self.layers.ndim > np.ndim(self.first) + 1

    @property
    def ends(self) -> Array:
        """(..., 2): the values of embedding and head."""
        return np.stack([self.first, self.last], axis=-1)

    def total(self, held: Array, ends: Array) -> Array:
        """Return sums over stages that hold `held` (..., K) layers, or (..., K, P)
        where policies matter, and `ends` (..., 2)."""
        axes = "kp" if self.depends_on_policy else "k"
        of_layers = np.einsum(f"...{axes},...{axes}->...", held, self.layers)
        return np.asarray(of_layers + (ends * self.ends).sum(axis=-1))

    def largest(self, held: Array, ends: Array) -> Array:
        """Return the largest value of any row in such stages."""
        over = (-2, -1) if self.depends_on_policy else (-1,)
        of_layers = np.where(held > 0, self.layers, 0.0).max(axis=over)
        return np.asarray(np.maximum(of_layers, (ends * self.ends).max(axis=-1)))


@dataclass(frozen=True)
class RowCosts:
    """Seconds and bytes of the rows, summed over causes. Leading axes run over candidates; there are none for one
    candidate.

    Attributes:
        forward, backward: one microbatch; `backward` by policy. `weight_gradient`: the part of it that may be
            postponed.
        first_forward, last_backward, optimizer: once a step; `last_backward` by policy.
        send: (...), one message between stages.
        activation, working: bytes by policy, kept for each microbatch in flight, and in use during a backward
            (the largest counts).
        static, step, host, nvme: bytes held over the step, needed by the update beside them, and held on the host and its drives.
        gather_window, reduce_buffer, step_window: bytes of which only the largest row's count; `reduce_buffer` with the allocator's fragments.
        slack: (...), unused bytes of the allocator, as a share of the bytes not held over the step.
        host_activation: bytes by policy, on the host for each microbatch in flight; None where there are none.
    """

    forward: Rows
    backward: Rows
    weight_gradient: Rows
    first_forward: Rows
    last_backward: Rows
    optimizer: Rows
    activation: Rows
    working: Rows
    static: Rows
    step: Rows
    host: Rows
    nvme: Rows
    gather_window: Rows
    reduce_buffer: Rows
    step_window: Rows
    send: Array
    slack: Array
    host_activation: Rows | None = None

    @classmethod
    def of(cls, tables: CostTables) -> "RowCosts":
        """Return the costs of every candidate of `tables`, on the first axis."""
        kept = tables.static
        return cls(
            forward=Rows.of(tables.forward.total[..., 0]),
            backward=Rows.by_policy(tables.backward.total),
            weight_gradient=Rows.of(tables.weight_gradient_seconds),
            first_forward=Rows.of(tables.first_forward.total[..., 0]),
            last_backward=Rows.by_policy(tables.last_backward.total),
            optimizer=Rows.of(tables.optimizer_seconds),
            activation=Rows.by_policy(tables.activation_bytes),
            working=Rows.by_policy(tables.working_bytes),
            static=Rows.of(kept.stays),
            step=Rows.of(kept.step + kept.late_gradients),
            host=Rows.of(kept.host),
            nvme=Rows.of(kept.nvme),
            gather_window=Rows.of(kept.gather_window),
            reduce_buffer=Rows.of(kept.reduce_buffer + kept.fragments),
            step_window=Rows.of(kept.step_window),
            send=tables.send_seconds,
            slack=tables.slack,
            host_activation=None
            if tables.host_activation_bytes is None
            else Rows.by_policy(tables.host_activation_bytes),
        )

    @classmethod
    def joined(cls, each: "Sequence[RowCosts]", join: Callable[[list[Array]], Array]) -> "RowCosts":
        """Return row costs whose arrays `join` makes of those of `each`, such as their least or their stack."""

        def of(parts: list[Any]) -> Any:
            if isinstance(parts[0], Rows):
                return Rows(*(join([getattr(part, name) for part in parts]) for name in ("layers", "first", "last")))
            return None if parts[0] is None else join(parts)

        return cls(**{field.name: of([getattr(rows, field.name) for rows in each]) for field in fields(cls)})

    def __getitem__(self, index: Any) -> "RowCosts":
        parts: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen: dict[str, Any] = {name: None if part is None else part[index] for name, part in parts.items()}
        return RowCosts(**chosen)

    def room_for(self, candidates: int) -> "RowCosts":
        """Return costs of so many candidates that are not filled in yet, in arrays like these of (N, ...)."""

        def empty(values: Array) -> Array:
            return np.empty((candidates, *values.shape[1:]))

        alike: dict[str, Any] = {}
        for name, value in vars(self).items():
            alike[name] = value.each(empty) if isinstance(value, Rows) else None if value is None else empty(value)
        return RowCosts(**alike)

    def put(self, index: IntArray, found: "RowCosts") -> None:
        """Fill in the costs of the candidates `index` (A,)."""
        for name, value in vars(found).items():
            mine = getattr(self, name)
            if isinstance(value, Rows):
                mine.layers[index], mine.first[index], mine.last[index] = value.layers, value.first, value.last
            elif value is not None:
                mine[index] = value

    def of_classes(self, chosen: slice) -> "RowCosts":
        """Return the costs without the other layer classes, for arrays with one axis over candidates."""
        alone: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            alone[field.name] = (
                Rows(value.layers[:, chosen], value.first, value.last) if isinstance(value, Rows) else value
            )
        return RowCosts(**alone)

    @property
    def postponed(self) -> Rows:
        """Bytes kept from an input gradient to its weight gradient: all activations, also recomputed ones."""
        return Rows(self.activation.layers[..., 0], self.activation.first, self.activation.last)

    @property
    def classes(self) -> int:
        """Layer classes, K."""
        return int(self.forward.layers.shape[-1])

    @property
    def policies(self) -> int:
        """Recompute policies, P."""
        return int(self.working.layers.shape[-1])

    def held(self, layers: Array, ends: Array) -> HeldBytes:
        """Return the bytes beside activations of a rank that holds `layers`
        (..., K) of each class and `ends` (..., 2)."""
        return HeldBytes(
            static=self.static.total(layers, ends),
            step=self.step.total(layers, ends),
            gather_window=self.gather_window.largest(layers, ends),
            reduce_buffer=self.reduce_buffer.largest(layers, ends),
            step_window=self.step_window.largest(layers, ends),
            slack=self.slack,
        )


@dataclass(frozen=True)
class StageSeconds:
    """Seconds of stages, (..., S) each; the fields are as in `StageCosts`."""

    forward: Array
    backward: Array
    weight_gradient: Array
    first_forward_extra: Array
    reduce_tail: Array
    optimizer: Array

    def __getitem__(self, index: Any) -> "StageSeconds":
        return StageSeconds(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def summed(self) -> "StageSeconds":
        """Return the sum over the first axis: parts of the same stages."""
        return StageSeconds(**{field.name: getattr(self, field.name).sum(axis=0) for field in fields(self)})

    def costs(self, schedule: ScheduleName, pp: int, send: Array, overlap_saving: Array | float = 0.0) -> StageCosts:
        """Return costs for closed form and simulation; `send` (..., S - 1), or (..., 1) where all take as long, are the seconds
        between ranks.

        Between stages of one rank a message takes no time.

        Raises:
            SpecError: the stages are no multiple of `pp`.
        """
        stages = self.forward.shape[-1]
        stays = np.diff(stage_ranks(schedule, pp, stages)) == 0
        return StageCosts(
            pp=pp,
            forward=self.forward,
            backward=self.backward,
            weight_gradient=self.weight_gradient,
            overlap_saving=overlap_saving,
            first_forward_extra=self.first_forward_extra,
            send=np.where(stays, 0.0, np.asarray(send)),
            reduce_tail=self.reduce_tail,
            optimizer=by_rank(schedule, pp, self.optimizer).sum(axis=-2),
        )


def stage_seconds(rows: RowCosts, mixes: Array, ends: Array) -> StageSeconds:
    """Return the seconds of stages with `mixes` (..., S, K, P) layers of each class under each policy, and `ends`
    (..., S, 2).

    Leading axes of `rows` must broadcast with those of `mixes` and the axis of stages.
    """
    layers = mixes.sum(axis=-1)
    return StageSeconds(
        forward=rows.forward.total(layers, ends),
        backward=rows.backward.total(mixes, ends),
        weight_gradient=rows.weight_gradient.total(layers, ends),
        first_forward_extra=rows.first_forward.total(layers, ends),
        reduce_tail=rows.last_backward.total(mixes, ends),
        optimizer=rows.optimizer.total(layers, ends),
    )


@dataclass(frozen=True)
class RankBytes:
    """(..., pp): bytes of each rank's peak on its device, without context and communicators, on its host, and on its drives."""

    device: Array
    host: Array
    nvme: Array


def rank_bytes(
    rows: RowCosts,
    schedule: ScheduleName,
    pp: int,
    microbatches: int,
    mixes: Array,
    vocabulary: VocabularyParallel = "none",
) -> RankBytes:
    """Return the bytes of ranks whose stages have `mixes` (..., S, K, P); `rows` are as in `stage_seconds`.

    Raises:
        SpecError: no such schedule for these stages.
    """
    ends = ends_of(mixes.shape[-3], spread=vocabulary != "none")
    each, postponed = rows.activation.total(mixes, ends), rows.postponed.total(mixes.sum(axis=-1), ends)
    kept = peak_activation_bytes(schedule, pp, microbatches, each, postponed)
    if vocabulary != "none":
        kept = kept + waiting_bytes(vocabulary, schedule, pp, microbatches, each)
    on_host = host_activation_bytes(rows, schedule, pp, microbatches, mixes, vocabulary)
    held = np.moveaxis(by_rank(schedule, pp, np.moveaxis(mixes, -3, -1)).sum(axis=-2), -1, -3)
    held_ends = by_rank(schedule, pp, ends.T).sum(axis=-2).T
    working = rows.working.largest(held, held_ends)
    layers = held.sum(axis=-1)
    host = rows.host.total(layers, held_ends) + on_host
    return RankBytes(rows.held(layers, held_ends).peak_bytes(kept + working), host, rows.nvme.total(layers, held_ends))


def host_activation_bytes(
    rows: RowCosts,
    schedule: ScheduleName,
    pp: int,
    microbatches: int,
    mixes: Array,
    vocabulary: VocabularyParallel = "none",
) -> Array | float:
    """(..., pp): the most bytes of activations that each rank holds on its host; arguments as in `rank_bytes`.

    Raises:
        SpecError: no such schedule for these stages.
    """
    if rows.host_activation is None:
        return 0.0
    each = rows.host_activation.total(mixes, ends_of(mixes.shape[-3], spread=vocabulary != "none"))
    waiting = waiting_bytes(vocabulary, schedule, pp, microbatches, each)
    return np.asarray(peak_activation_bytes(schedule, pp, microbatches, each) + waiting)


def stage_causes(seconds: Seconds, mixes: Array, ends: Array) -> dict[str, Array]:
    """Return each cause of `seconds` (N, R, P) by name, summed over stages: (N, S).

    The stages have `mixes` (N or 1, S, K, P) and `ends` (N or 1, S, 2).
    """
    return {name: Rows.by_policy(value)[:, None].total(mixes, ends) for name, value in vars(seconds).items()}


def ends_of(stages: int, *, spread: bool = False) -> Array:
    """(S, 2): the shares of the embedding and of the head that a stage holds; `spread` over all stages alike, or at the ends."""
    if spread:
        return np.full((stages, 2), 1.0 / stages)
    ends = np.zeros((stages, 2))
    ends[0, 0] = ends[-1, 1] = 1.0
    return ends
