"""One question over a row of jobs: each is searched once, and what fits is kept."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from shardwright.base import InfeasibleError, SpecError
from shardwright.planner import ExplainNone, search
from shardwright.planner.branching import SearchResult
from shardwright.planner.mixed import search_mixed
from shardwright.planner.space import Fixed
from shardwright.specs import ClusterSpec, Estimate, Plan, TrainingSpec
from shardwright.specs.model import ModelSpec

from .climbing import Verdict


class Job(NamedTuple):
    """What `search` is asked for; `fixed` are the choices that the plan must keep."""

    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec
    fixed: Fixed = Fixed()


@dataclass(frozen=True)
class Case:
    """One job that fits: `value` is what the question varies, `result` what `search` found for the devices of `cluster`."""

    value: int
    model: ModelSpec
    cluster: ClusterSpec
    result: SearchResult

    @property
    def training(self) -> TrainingSpec:
        return self.result.training

    @property
    def plan(self) -> Plan:
        return self.result.plan

    @property
    def estimate(self) -> Estimate:
        return self.result.estimate


@dataclass(frozen=True)
class Largest:
    """The largest value of a row that fits.

    Attributes:
        best: its case.
        fastest: the case with most tokens/s of those that were tried.
        cases: all cases that were tried and fit, by value.
        next_value, next_fails_by: the next value of the row, and why no plan for it fits; None where the row ends.
        searches: how many searches that took.
    """

    best: Case
    cases: tuple[Case, ...]
    next_value: int | None
    next_fails_by: str | None
    searches: int

    @property
    def fastest(self) -> Case:
        return max(self.cases, key=lambda case: case.estimate.tokens_per_s)


@dataclass
class Asker:
    """Searches jobs by value, each once. `options` are those of `search`.

    `reasons`: why a value has no plan, where nothing divides.
    """

    job_of: Callable[[int], Job]
    options: dict[str, Any]
    tried: dict[int, Case | None] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    searches: int = 0

    def case(self, value: int) -> Case | None:
        """The fastest plan of a value's job, None where none fits or nothing divides."""
        if value not in self.tried:
            self.searches += 1
            try:
                job = self.job_of(value)
                result, cluster = self._search(job, explain_none="nothing")
                self.tried[value] = Case(value, job.model, cluster, result)
            except InfeasibleError:
                self.tried[value] = None
            except SpecError as reason:
                self.tried[value], self.reasons[value] = None, str(reason)
        return self.tried[value]

    def verdict(self, value: int) -> Verdict:
        if self.case(value) is not None:
            return Verdict.FITS
        return Verdict.NOTHING_DIVIDES if value in self.reasons else Verdict.TOO_LARGE

    def refuse(self, value: int) -> None:
        """Raise what `search` says of a value that has no plan.

        Raises:
            SpecError: nothing divides.
            InfeasibleError: plans divide, but none fits.
        """
        self._search(self.job_of(value), explain_none="changes")

    def why_not(self, value: int) -> str:
        """The sentence of a value that has no plan, without changes of the job that would fit."""
        if value not in self.reasons:
            try:
                self._search(self.job_of(value), explain_none="limit")
            except (InfeasibleError, SpecError) as reason:
                self.reasons[value] = str(reason)
        return self.reasons.get(value, "")

    def fitting(self) -> tuple[Case, ...]:
        """The cases that fit, by value."""
        return tuple(case for _, case in sorted(self.tried.items()) if case is not None)

    def largest(self, values: "Row", number: int) -> Largest:
        """The answer where number `number` of `values`, from 1, is the largest that fits.

        Raises:
            SpecError, InfeasibleError: no value fits; what `search` says of the first that divides, or of the first.
        """
        if number == 0:
            self.refuse(next((value for value in self.tried if value not in self.reasons), values[0]))
        best = self.case(values[number - 1])
        assert best is not None  # what `largest` returns was found to fit
        following = values[number] if number < len(values) else None
        why = None if following is None else self.why_not(following)
        return Largest(best, self.fitting(), following, why, self.searches)

    def _search(self, job: Job, *, explain_none: ExplainNone) -> tuple[SearchResult, ClusterSpec]:
        """The result, and the devices that it is for: those of the job, or the part of a mixed cluster that is fastest."""
        options: dict[str, Any] = {"fixed": job.fixed, "runners_up": 0, "explain_none": explain_none} | self.options
        if job.cluster.is_mixed:
            found = search_mixed(job.model, job.cluster, job.training, **options)
            return found.result, found.cluster
        return search(job.model, job.cluster, job.training, **options), job.cluster


Row = range | list[int]
"""The values that a question tries, ascending."""


def odd_factor(number: int) -> list[int]:
    """The largest odd divisor of a number of devices, as a coarse unit to climb by; empty for powers of two."""
    while number % 2 == 0:
        number //= 2
    return [number] if number > 1 else []
