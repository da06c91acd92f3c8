"""Step time and peak memory of millions of plans with even stages, from few costs: what a sweep over a space needs.

Three things make it fast. Tables are built for the distinct combinations of the choices that they depend on. The pipeline
is a maximum over a few paths and the memory one over a few ranks (`even_paths`, `even_memory`), which take the same linear
form for all plans of a shape. And plans of a shape go together, so many at a time that their costs stay in the cache.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import get_args

import numpy as np

from shardwright.base import FloatArray, IntArray, SpecError
from shardwright.costmodel.op_times import OpTimes, largest_of
from shardwright.costmodel.tables import CostTables, build_tables, distinct, fixed_bytes
from shardwright.specs import (
    POLICIES,
    Candidates,
    ClusterSpec,
    RecomputePolicy,
    ScheduleName,
    TrainingSpec,
    check_shape,
)
from shardwright.specs.model import ModelSpec

from .memory import EvenMemory, RowBytes, even_memory
from .paths import EvenPaths, distinct_microbatches, even_paths
from .stages import even_row_counts

SCHEDULE_NAMES: tuple[ScheduleName, ...] = get_args(ScheduleName)
_CLOSED: tuple[ScheduleName, ...] = ("gpipe", "1f1b", "interleaved-1f1b")
# Plans at a time, and candidates at a time: about 50 numbers for each of the first have to stay in a core's cache.
_PLANS, _TABLES = 4096, 16384
_TOGETHER = 50_000


@dataclass(frozen=True)
class EvenCosts:
    """(N,) each: seconds of a step, and bytes at the peak of the fullest device."""

    step_seconds: FloatArray
    peak_bytes: FloatArray


def evaluate_even(
    model: ModelSpec,
    cluster: ClusterSpec,
    training: TrainingSpec,
    candidates: Candidates,
    times: OpTimes,
    *,
    schedule: ScheduleName | IntArray = "1f1b",
    recompute: RecomputePolicy | IntArray = "none",
) -> EvenCosts:
    """Step and memory of every candidate with its layers spread over the stages by `even_stages`.

    The memory is that of `PlanCosts.memory`. The step is never above `step_seconds` of the same plan, and within 1% of
    it on plans of one layer class (GPipe: equal); `tests/costmodel/even/test_closed_form.py` holds it to that.

    Args:
        candidates: each must divide model and batch; that is the caller's to check.
        times: with constants that are numbers, not arrays over candidates.
        schedule: of all candidates, or (N,) places in `plan.ScheduleName`: GPipe, 1F1B, or interleaved 1F1B.
        recompute: of all layers, or (N,) places in `tables.POLICIES`.

    Raises:
        SpecError: a schedule has no closed form or does not exist for a candidate's numbers, or a candidate has more
            stages than layers, or an interleaved one stages of different sizes.
    """
    number = len(candidates)
    schedules = np.full(number, SCHEDULE_NAMES.index(schedule)) if isinstance(schedule, str) else schedule
    policies = np.full(number, POLICIES.index(recompute)) if isinstance(recompute, str) else recompute
    space = _EvenSpace(model, cluster, training, candidates, times, schedules, policies)
    return space.costs()


@dataclass(frozen=True)
class _EvenSpace:
    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec
    candidates: Candidates
    times: OpTimes
    schedules: IntArray
    policies: IntArray

    def costs(self) -> EvenCosts:
        number = len(self.candidates)
        found = EvenCosts(np.empty(number), np.empty(number))
        for part in self._parts():
            some = replace(
                self,
                candidates=self.candidates[part],
                schedules=self.schedules[part],
                policies=self.policies[part],
            )
            found.step_seconds[part], found.peak_bytes[part] = some.part_costs()
        return found

    def _parts(self) -> list[IntArray]:
        """Candidates that share few tables with others: those of one stage a rank, and those of each interleaved shape.

        A few candidates stay together, as building tables takes a while however few there are.
        """
        if len(self.candidates) <= _TOGETHER:
            return [np.arange(len(self.candidates))] if len(self.candidates) else []
        some = self.candidates
        return _split(distinct([np.where(some.stages_per_rank > 1, some.pp, 0), some.stages_per_rank]).of_row)

    def part_costs(self) -> tuple[FloatArray, FloatArray]:
        number = len(self.candidates)
        found = EvenCosts(np.empty(number), np.empty(number))
        columns, of_candidate = self._columns()
        place = of_candidate * len(POLICIES) + self.policies
        for plans in self._shapes():
            self._evaluate(plans, columns, place, found)
        return found.step_seconds, found.peak_bytes

    @cached_property
    def _few(self) -> Candidates:
        """The candidates as far as the tables tell them apart, waiting for the slowest of all ranks aside.

        With one stage a rank it matters only whether the pipeline and the microbatches are more than one, but where
        updates are broadcast in turn, which a rank with fewer layers notices more.
        """
        some = self.candidates
        alone = some.stages_per_rank == 1
        short = alone & (not self.training.software.broadcasts_updates)
        return replace(
            some,
            pp=np.where(short, np.minimum(some.pp, 2), some.pp),
            microbatches=np.minimum(some.microbatches, np.where(alone, 2, np.maximum(some.pp, 2))),
        )

    @cached_property
    def _more_waiting(self) -> FloatArray:
        """(N,): how much longer all ranks wait for the slowest of them than those of `_few`."""
        ranks, few = self.candidates.ranks, self._few.ranks
        kinds = distinct([ranks, few])
        all_of, few_of = largest_of(ranks[kinds.first]), largest_of(few[kinds.first])
        return np.asarray((all_of / np.where(few_of > 0, few_of, 1.0))[kinds.of_row])

    def _columns(self) -> tuple[FloatArray, IntArray]:
        """(columns, U * policies): every cost of the U distinct candidates, and (N,) which one each candidate is."""
        few = self._few
        kinds = distinct(list(vars(few).values()))
        parts = []
        for start in range(0, len(kinds.first), _TABLES):
            some = few[kinds.first[start : start + _TABLES]]
            tables = build_tables(self.model, self.cluster, self.training, some, self.times)
            parts.append(_flattened(tables, fixed_bytes(some, self.cluster)))
        return np.concatenate(parts, axis=1), kinds.of_row

    def _shapes(self) -> Iterator[IntArray]:
        """The candidates of each schedule, pp, stages per rank and number of microbatches that makes a difference."""
        some = self.candidates
        kinds = [self.schedules, some.pp, some.stages_per_rank]
        first = distinct(kinds)
        enough = np.empty_like(some.pp)
        for index, name in enumerate(SCHEDULE_NAMES):
            if name in _CLOSED:
                chosen = self.schedules == index
                enough[chosen] = distinct_microbatches(name, some.pp[chosen], some.microbatches[chosen])
            elif (self.schedules == index).any():
                raise SpecError(f"{name} has no closed form; allowed: {', '.join(_CLOSED)}")
        yield from _split(distinct([first.of_row, enough]).of_row)

    def _evaluate(self, plans: IntArray, columns: FloatArray, place: IntArray, found: EvenCosts) -> None:
        """Fill in `found` for `plans` of one shape."""
        shape = self._shape_of(plans)
        for start in range(0, len(plans), _PLANS):
            some = plans[start : start + _PLANS]
            costs = _Columns(columns.take(place[some], axis=1), self._rows)
            microbatches = self.candidates.microbatches[some].astype(float)
            costs.work[:] += costs.waiting * self._more_waiting[some]
            step = shape.paths.seconds(costs.passes, microbatches)
            found.step_seconds[some] = step + (shape.rows_of_rank @ costs.optimizer).max(axis=0)
            memory = shape.memory.peak_bytes(costs.bytes, microbatches, costs.slack)
            found.peak_bytes[some] = memory + costs.fixed_bytes

    @cached_property
    def _rows(self) -> int:
        return len(self.model.layer_classes) + 2

    def _shape_of(self, plans: IntArray) -> "_Shape":
        some, name = self.candidates, SCHEDULE_NAMES[int(self.schedules[plans[0]])]
        pp, chunks = int(some.pp[plans[0]]), int(some.stages_per_rank[plans[0]])
        microbatches = some.microbatches[plans]
        for number in (microbatches[0], microbatches[np.argmax(microbatches % pp)]):
            check_shape(name, pp, pp * chunks, int(number))
        layers = self.model.layer_count
        if pp * chunks > layers:
            raise SpecError(f"{pp * chunks} stages are more than the {layers} layers of {self.model.name}")
        if name == "interleaved-1f1b" and layers % (pp * chunks):
            raise SpecError(
                f"{layers} layers of {self.model.name} do not divide into pp {pp} x {chunks} stages of one size; interleaved-1f1b "
                "has a closed form only where they do"
            )
        enough = int(distinct_microbatches(name, some.pp[plans[:1]], microbatches[:1])[0])
        return _shape(self.model.class_of_layer, name, pp, chunks, enough)


@dataclass(frozen=True)
class _Shape:
    """`rows_of_rank` (kinds, R): the rows of each kind of rank."""

    paths: EvenPaths
    memory: EvenMemory
    rows_of_rank: FloatArray


@lru_cache(maxsize=4096)
def _shape(class_of_layer: tuple[int, ...], name: ScheduleName, pp: int, chunks: int, microbatches: int) -> _Shape:
    """What plans of one shape have in common, whatever they cost."""
    counts = even_row_counts(class_of_layer, pp * chunks)
    return _Shape(
        even_paths(name, counts, pp, microbatches),
        even_memory(name, counts, pp, microbatches),
        np.unique(counts.reshape(chunks, pp, -1).sum(axis=0), axis=0).astype(float),
    )


@dataclass(frozen=True)
class _Columns:
    """Views of the columns (K, n) of n plans with R = `rows` rows, in the order of `_flattened`."""

    values: FloatArray
    rows: int

    def _at(self, kind: int) -> FloatArray:
        return self.values[kind * self.rows : (kind + 1) * self.rows]

    @property
    def passes(self) -> FloatArray:
        """What `EvenPaths.seconds` takes."""
        return self.values[9 * self.rows : 13 * self.rows + 1]

    @property
    def work(self) -> FloatArray:
        """Forward and backward, (2 R, n); at first without waiting for the slowest rank."""
        return self.values[9 * self.rows : 11 * self.rows]

    @property
    def waiting(self) -> FloatArray:
        """What that adds to them for the ranks of `_EvenSpace._few`."""
        return self.values[7 * self.rows : 9 * self.rows]

    @property
    def optimizer(self) -> FloatArray:
        return self._at(0)

    @property
    def bytes(self) -> RowBytes:
        return RowBytes(*(self._at(kind) for kind in range(1, 7)))

    @property
    def fixed_bytes(self) -> FloatArray:
        return np.asarray(self.values[-2])

    @property
    def slack(self) -> FloatArray:
        return np.asarray(self.values[-1])


def _split(kinds: IntArray) -> list[IntArray]:
    """The places of each of `kinds`, which are numbered from 0 without gaps."""
    small = kinds.astype(np.int16) if int(kinds.max()) < 2**15 else kinds  # which NumPy sorts by radix
    return np.split(np.argsort(small, kind="stable"), np.cumsum(np.bincount(kinds))[:-1])


def _flattened(tables: CostTables, fixed: FloatArray) -> FloatArray:
    """(K, N * policies): what `_Columns` has views of, one line after the other."""
    kept = tables.static
    kinds = [
        tables.optimizer_seconds,
        tables.activation_bytes,
        tables.working_bytes,
        kept.stays,
        kept.gather_window,
        kept.reduce_buffer,
        kept.step,
        tables.forward.straggler,
        tables.backward.straggler,
        tables.forward.total - tables.forward.straggler,
        tables.backward.total - tables.backward.straggler,
        tables.first_forward.total,
        tables.last_backward.total,
    ]
    ends = (tables.send_seconds, fixed, tables.slack)
    by_row = [_by_row(kind) for kind in kinds]
    return np.concatenate([*by_row, *(np.repeat(end, len(POLICIES))[None] for end in ends)])


def _by_row(values: FloatArray) -> FloatArray:
    """(R, N * policies) from (N, R) or (N, R, policies); embedding and head have no layer to recompute."""
    number, rows = values.shape[:2]
    wide = np.broadcast_to(values if values.ndim == 3 else values[..., None], (number, rows, len(POLICIES))).copy()
    wide[:, -2:] = wide[:, -2:, :1]
    return wide.swapaxes(0, 1).reshape(rows, -1)
