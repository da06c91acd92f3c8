"""Replicas of one mesh in every group of a mixed cluster: the space of their meshes and micro batches, and first bounds.

Symbols: group g has c_g replicas; a replica has dp_shard ranks d that read sequences of their own; B is the global batch. Every such
rank of group g computes m_g microbatches of b_g sequences a step, n_g = b_g m_g, and

    sum_g c_g n_g = B / d = N

A `kind` is one choice of everything but b_g, m_g and the stages. Groups choose these for themselves, and the step is the longest of
theirs. It never falls with more microbatches (a law of the cost model). So each group's step bounds from above how many sequences
it takes within a limit.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from shardwright.base import Array, IntArray, SpecError
from shardwright.costmodel import MixedTimes
from shardwright.costmodel.op_times import CALIBRATED, Constants
from shardwright.costmodel.tables import Rows
from shardwright.planner.mixes import allowed_strategies
from shardwright.planner.space import Fixed, Space, SpaceCosts, enumerate_space, layer_ranges, space_costs
from shardwright.specs import Candidates, ClusterSpec, TrainingSpec
from shardwright.specs.model import ModelSpec

from .arrangement import blocks_of, equal_nodes, within_mixed

_NEARLY = 1 - 1e-9
_OF_ENTRIES = ("schedule", "stages_per_rank", "vocabulary_parallel")


@dataclass(frozen=True)
class Rates:
    """Lower bounds on the step of one group, (N,) each: at least `start` + m `each` seconds of m microbatches; infinite where no
    plan of an entry fits the group's memory."""

    start: Array
    each: Array


@dataclass(frozen=True)
class ReplicaSpace:
    """The entries of replicas that fill all devices of `cluster`: meshes with the micro batches that one group may have.

    In `space`, dp_replicate counts the replicas of all groups, and `microbatches` are what one replica with the whole batch would
    compute. `kind` (N,) is the number of each entry's kind.
    """

    cluster: ClusterSpec
    model: ModelSpec
    training: TrainingSpec
    times: MixedTimes
    space: Space
    kind: IntArray

    @classmethod
    def of(
        cls,
        cluster: ClusterSpec,
        model: ModelSpec,
        training: TrainingSpec,
        fixed: Fixed,
        constants: Constants = CALIBRATED,
    ) -> "ReplicaSpace":
        """Enumerate the space.

        Raises:
            SpecError: nothing divides, or the fixed choices contradict each other or replicas in several groups.
        """
        spaces, refusals = [], list[SpecError]()
        for block in blocks_of(cluster):
            replicas = cluster.devices // block
            try:
                kept = within_mixed(fixed, cluster, {"dp_replicate": [replicas]})
                # any number of microbatches divides one replica's batch, so each replica gets all of it here
                whole = training.model_copy(update={"global_batch": replicas * training.global_batch})
                spaces.append(enumerate_space(model, equal_nodes(cluster), whole, kept))
            except SpecError as reason:
                refusals.append(reason)
        if not spaces:
            raise refusals[0]
        space = _joined(spaces)
        return cls(cluster, model, training, MixedTimes.of(cluster, training, constants), space, _kinds(space))

    @property
    def groups(self) -> range:
        return range(len(self.cluster.groups))

    def alike(self, group: int) -> int:
        """The first group that equals this one, whose costs are the same."""
        groups = self.cluster.groups
        return groups.index(groups[group])

    @cached_property
    def allowed(self) -> list[int]:
        """The strategies that a layer may have."""
        allowed = allowed_strategies(self.space.fixed, self.space.strategies)
        return self.space.runs(allowed, splits=False, several=False)

    @cached_property
    def replicas(self) -> IntArray:
        """(G, N): replicas of each group."""
        devices = np.array([group.devices for group in self.cluster.groups])
        return np.asarray(self.space.column("dp_replicate") * devices[:, None] // self.cluster.devices)

    @cached_property
    def sequences(self) -> IntArray:
        """(N,): N, the sequences that data-parallel ranks of one place in all replicas read together."""
        return self.space.column("micro_batch") * self.space.column("microbatches")

    @cached_property
    def most(self) -> IntArray:
        """(G, N): the most microbatches that leave a sequence for each replica of the other groups."""
        others = self.replicas.sum(axis=0) - self.replicas
        return np.asarray((self.sequences - others) // (self.replicas * self.space.column("micro_batch")))

    def priced(self, group: int, entries: IntArray, microbatches: IntArray) -> SpaceCosts:
        """Return the costs in one group of `entries` (A,) with so many microbatches (A,), in this order."""
        base = self.space.base[self.space.base_index[entries]]
        columns: dict[str, Any] = {name: getattr(self.space, name)[entries] for name in _OF_ENTRIES}
        own = replace(base, microbatches=microbatches)
        chosen = replace(self.space, base=own, base_index=np.arange(len(entries)), **columns)
        return self._costs(group, chosen)

    def _costs(self, group: int, space: Space) -> SpaceCosts:
        devices = [each.devices for each in self.cluster.groups]
        exchange = self.times.exchange(devices, group)
        return space_costs(space, self.model, self.training, self.times.of_group[group], exchange=exchange)

    @cached_property
    def rates(self) -> list[Rates]:
        """Of every group, without data parallelism: X, forward and cheapest backward of all rows, and s, those of the busiest rank.

        Under 1F1B and GPipe m microbatches take at least m s, and X + (m - 1 - (P - 1) / 2) s (bounds.py).
        """
        own = {group: self._rates(self._costs(group, self.space)) for group in set(map(self.alike, self.groups))}
        return [own[self.alike(group)] for group in self.groups]

    def _rates(self, costs: SpaceCosts) -> Rates:
        base, whole, least = self.space.base, layer_ranges(self.model).whole, costs.rows.least
        seconds = Rows.of(least.forward) + Rows.by_policy(least.backward).cheapest(self.allowed)
        kept = Rows.by_policy(least.activation_bytes).cheapest(self.allowed)
        fits = Rows.of(least.stays).of_model(whole) + kept.layers @ whole <= costs.room_bytes * base.pp
        total, common = seconds.of_model(whole), int(whole.argmax())
        each = np.maximum(total / base.pp, -(-whole[common] // base.pp) * seconds.layers[:, common])
        start = np.where(fits, np.maximum(0.0, total - (1 + (base.pp - 1) / 2) * each), np.inf)
        return Rates(start[self.space.base_index], each[self.space.base_index])

    @cached_property
    def kinds(self) -> IntArray:
        """(K,): how many entries precede each kind, in the order by kind."""
        return np.searchsorted(np.sort(self.kind), np.arange(self.kind.max() + 1))

    @cached_property
    def by_kind(self) -> IntArray:
        """(N,): the entries in the order of their kinds."""
        return np.argsort(self.kind, kind="stable")

    def least_of_kinds(self, values: Array) -> Array:
        """(K,): the least of `values` (N,) among the entries of each kind."""
        return np.asarray(np.minimum.reduceat(values[self.by_kind], self.kinds))

    def of_kind(self, kind: int) -> IntArray:
        """The entries of a kind."""
        return np.flatnonzero(self.kind == kind)

    @cached_property
    def _shares(self) -> tuple[Array, Array, Array]:
        """(G, K) each: replicas of a group, the most sequences r_g = max b / s that one rank takes in a second, and the least `start`."""
        first, micro_batch = self.by_kind[self.kinds], self.space.column("micro_batch")
        most, start = [], []
        for found in self.rates:
            fits = np.isfinite(found.start)
            most.append(1 / self.least_of_kinds(np.where(fits, found.each / micro_batch, np.inf)))
            start.append(self.least_of_kinds(found.start))
        return self.replicas[:, first].astype(float), np.stack(most), np.stack(start)

    @cached_property
    def step_bounds(self) -> Array:
        """(K,): seconds that every plan of a kind takes at least.

        Group g takes at most c_g r_g (T - start_g) sequences in T seconds, so T >= (N + sum_g c_g r_g start_g) / sum_g c_g r_g. It takes
        one sequence or more, so T >= start_g.
        """
        count, rate, start = self._shares
        fits = np.isfinite(start).all(axis=0)
        late = np.where(fits, start, 0.0)
        together = np.maximum((count * rate).sum(axis=0), 1e-300)
        seconds = (self.sequences[self.by_kind[self.kinds]] + (count * rate * late).sum(axis=0)) / together
        return np.where(fits, np.maximum(seconds, late.max(axis=0)), np.inf)

    @cached_property
    def balanced(self) -> IntArray:
        """(G, N): microbatches of which in every plan of an entry's kind some group has as many, at least.

        Parts n_g of the sequences, in proportion to what each group takes in `step_bounds`, add up to N. If every group had less than
        floor(n_g / b_g) + 1 microbatches, they would have less than N sequences together.
        """
        count, rate, start = self._shares
        fits = np.isfinite(self.step_bounds)
        part = rate * np.where(fits, self.step_bounds, 0.0) - rate * np.where(fits, start, 0.0)
        stretched = self.sequences[self.by_kind[self.kinds]] / np.maximum((count * part).sum(axis=0), 1e-300)
        sequences = (part * stretched * _NEARLY)[:, self.kind]
        whole: IntArray = np.floor(sequences / self.space.column("micro_batch")).astype(np.int64)
        return whole + 1


def _joined(spaces: list[Space]) -> Space:
    base = Candidates(
        **{
            field.name: np.concatenate([getattr(one.base, field.name) for one in spaces])
            for field in fields(Candidates)
        }
    )
    first = np.cumsum([0, *(len(one.base) for one in spaces[:-1])])
    index = np.concatenate([one.base_index + start for one, start in zip(spaces, first, strict=True)])
    columns: dict[str, Any] = {name: np.concatenate([getattr(one, name) for one in spaces]) for name in _OF_ENTRIES}
    return replace(spaces[0], base=base, base_index=index, **columns)


def _kinds(space: Space) -> IntArray:
    """(N,): numbers from 0 of the distinct choices of everything but the micro batch."""
    names = [field.name for field in fields(Candidates) if field.name not in ("micro_batch", "microbatches")]
    columns = [np.asarray(getattr(space.base, name), dtype=float)[space.base_index] for name in names]
    _, kind = np.unique(np.stack([*columns, space.schedule], axis=1), axis=0, return_inverse=True)
    return np.asarray(kind).reshape(-1)
