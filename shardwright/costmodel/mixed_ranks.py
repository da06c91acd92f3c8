"""Mixed clusters: the times of each group, which group holds each pipeline rank, and what stages of different groups send."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import (
    CALIBRATED,
    CatalogTimes,
    Constants,
    Crossing,
    OpTimes,
    ReplicaExchange,
    op_times,
)
from shardwright.costmodel.tables import CostTables, build_tables, candidates_of, crossing_seconds
from shardwright.specs import Candidates, ClusterSpec, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec


@dataclass(frozen=True)
class MixedTimes:
    """The operation times of every group of a mixed cluster, in the order of its groups."""

    cluster: ClusterSpec
    training: TrainingSpec
    constants: Constants
    of_group: tuple[OpTimes, ...]

    @classmethod
    def of(cls, cluster: ClusterSpec, training: TrainingSpec, constants: Constants = CALIBRATED) -> Self:
        """Return the times of each group as of a cluster of its own.

        Raises:
            SpecError: a group's device does not compute in the format of `training`.
        """
        alone = (cluster.alone(index) for index in range(len(cluster.groups)))
        return cls(cluster, training, constants, tuple(op_times(each, training, constants) for each in alone))

    def crossing(self, one: int, other: int) -> Crossing:
        """Return what passes from one group to another."""
        cluster = self.cluster
        nodes = cluster.groups[one], cluster.groups[other]
        return Crossing.of(nodes, cluster.between, self.training, self.constants, cluster.oversubscription)

    def exchange(self, replicas: Sequence[int], own: int) -> ReplicaExchange:
        """Return what replicas, so many in each group or in proportion to that, sum up with each other, for the ranks of group `own`."""
        cluster = self.cluster
        plain = CatalogTimes(cluster.groups[own], self.training, self.constants, cluster.oversubscription)
        return ReplicaExchange.of(self.of_group, cluster.between, replicas, own, plain)


@dataclass(frozen=True)
class MixedRanks:
    """The pipeline ranks of a plan on a mixed cluster: `group_of_rank` (pp,) indexes the groups of `times`."""

    times: MixedTimes
    group_of_rank: tuple[int, ...]

    @property
    def used(self) -> list[int]:
        """The groups in which ranks are, in their order along the pipeline."""
        return list(dict.fromkeys(self.group_of_rank))

    @property
    def ends(self) -> Crossing | None:
        """What the first rank and the last send each other, where they are in different groups."""
        first, last = self.group_of_rank[0], self.group_of_rank[-1]
        return self.times.crossing(first, last) if first != last else None

    def tables(self, model: ModelSpec, training: TrainingSpec, plan: Plan) -> dict[int, CostTables]:
        """The cost tables of each group for the candidates of the plan."""
        return {
            group: build_tables(
                model,
                training,
                candidates_of(plan),
                self.times.of_group[group],
                strategies=plan.strategies,
                mtp_apart=plan.mtp_stage is not None,
                ends=self.ends,
            )
            for group in self.used
        }

    def sends(
        self, model: ModelSpec, training: TrainingSpec, candidates: Candidates, inside: Mapping[int, Array]
    ) -> Array:
        """(N, pp - 1): seconds of the message behind each rank. `inside` (N,): those of two ranks in one group."""
        found = [inside[self.group_of_rank[0]][:, None][:, :0]]
        for one, other in pairwise(self.group_of_rank):
            seconds = inside[one] if one == other else self._across(one, other, model, training, candidates)
            found.append(seconds[:, None])
        return np.concatenate(found, axis=1)

    def _across(self, one: int, other: int, model: ModelSpec, training: TrainingSpec, candidates: Candidates) -> Array:
        crossing = self.times.crossing(one, other)
        sides = (
            crossing_seconds(model, training, candidates, self.times.of_group[group], crossing)
            for group in (one, other)
        )
        return np.maximum(*sides)
