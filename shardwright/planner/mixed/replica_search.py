"""The search for replicas in several groups: kinds in the order of their bounds, and the best split of the batch for each."""

import time
from dataclasses import dataclass, field

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.planner.bounds import lower_bounds
from shardwright.planner.space import layer_ranges
from shardwright.planner.stages import CriticalPaths, plan_of
from shardwright.specs import Mesh, Plan, Replicas

from .replica_space import ReplicaSpace
from .replica_split import Split, SplitSearch

_ROUNDING = 1e-9
_FIRST_BATCH = 64


@dataclass
class ReplicaSearch:
    """A search for replicas that take less than `limit` seconds. `bound_seconds`: at most the step of every plan that is not searched."""

    space: ReplicaSpace
    limit: float
    best: Split | None = None
    bound_seconds: float = np.inf
    solved: int = 0
    complete: bool = True
    paths: dict[tuple[object, ...], CriticalPaths] = field(default_factory=dict)

    def run(self, deadline: float) -> None:
        """Search until no kind may be faster than the limit, or the time is up and there is a plan or a limit."""
        bounds = self.space.step_bounds
        order, done = np.argsort(bounds, kind="stable"), 0
        size = _FIRST_BATCH if np.isinf(self.limit) else len(order)  # pricing many at once takes little longer than few
        order = order[np.isfinite(bounds[order])]
        while done < len(order) and bounds[order[done]] < self._below:
            batch = order[done : done + size]
            batch = batch[bounds[batch] < self._below]
            done, size = done + size, len(order)
            entries = np.flatnonzero(np.isin(self.space.kind, batch))
            sharp = self._sharp(entries)
            least = np.full(len(bounds), np.inf)
            np.minimum.at(least, self.space.kind[entries], sharp.min(axis=0))
            for kind in sorted(batch.tolist(), key=lambda one: float(least[one])):
                if not least[kind] < self._below:
                    break
                late = np.isfinite(self.limit) and time.perf_counter() > deadline
                mine = self.space.kind[entries] == kind
                if late or not self._split(entries[mine], sharp[:, mine], deadline):
                    self.complete = False
                    self.bound_seconds = min(self.bound_seconds, float(least[kind]), float(bounds[order].min()))
                    return

    @property
    def _below(self) -> float:
        return self.limit * (1 - _ROUNDING)

    def _sharp(self, entries: IntArray) -> Array:
        """(G, A): seconds that a group takes at least with its balanced number of microbatches of each of `entries`; infinite where no
        plan of an entry has so many. In every plan of a kind some group has as many, so the least of a kind bounds its plans."""
        found = np.full((len(self.space.groups), len(entries)), np.inf)
        for group in self.space.groups:
            alike = self.space.alike(group)
            if alike < group:
                found[group] = found[alike]
                continue
            count, rates = self.space.balanced[group][entries], self.space.rates[group]
            can = np.isfinite(rates.start[entries]) & (count <= self.space.most[group][entries])
            can &= rates.start[entries] + count * rates.each[entries] < self.limit
            some = np.flatnonzero(can)
            found[group, (count <= self.space.most[group][entries]) & np.isfinite(rates.start[entries])] = self.limit
            if len(some):
                costs = self.space.priced(group, entries[some], count[some])
                costs.rows[:]  # together
                ranges = layer_ranges(self.space.model)
                found[group, some] = lower_bounds(costs, ranges, self.space.allowed, None, self.limit)
        return found

    def _split(self, entries: IntArray, bounds: Array, deadline: float) -> bool:
        """Search the splits of one kind; False where the time was up."""
        one = SplitSearch(self.space, entries, self.limit, self.paths)
        complete = one.run(bounds, deadline)
        self.solved += one.solved
        self.bound_seconds = min(self.bound_seconds, one.bound_seconds)
        if one.best is not None:
            self.best, self.limit = one.best, one.best.step_seconds
        return complete

    def plan(self) -> Plan:
        """The best plan; there is one."""
        assert self.best is not None
        each = [plan_of(part.solved, part.space, self.space.model) for part in self.best.parts]
        devices = [group.devices for group in self.space.cluster.groups]
        mesh: Mesh = each[0].mesh
        groups = tuple(
            Replicas(
                count=mesh.dp_replicate * own // sum(devices),
                micro_batch=one.micro_batch,
                microbatches=one.microbatches,
                stages=one.stages,
            )
            for one, own in zip(each, devices, strict=True)
        )
        return Plan(**{**dict(each[0]), "replicas": groups})
