"""How good predictions are: errors, coverage of intervals, rank agreement and regret. It takes and returns plain numbers."""

import math
import statistics
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from shardwright.specs import Spec


class ErrorSummary(Spec):
    """Relative errors, predicted / measured - 1, as fractions. `mean_signed` above zero: predictions too large."""

    count: int
    median: float
    mean: float
    p90: float
    worst: float
    mean_signed: float


class RankAgreement(Spec):
    """Agreement of predicted and measured order, for jobs that ran in several ways.

    `kendall_tau`: (agreeing - disagreeing) / all pairs of plans of a group whose measured times differ; a pair
    predicted equal counts as neither. `regret`: measured time of the plan predicted fastest over that of the fastest
    measured, minus 1, per group.
    """

    groups: int
    pairs: int
    kendall_tau: float
    median_regret: float
    mean_regret: float
    worst_regret: float


class GroupAgreement(Spec):
    """One group of `RankAgreement`: `plans` of the job `name`, and how well their order was predicted.

    `kendall_tau` is None where all plans took equally long.
    """

    name: str
    plans: int
    kendall_tau: float | None
    regret: float


class Trial(NamedTuple):
    """One measured run of a group: its plan, its measured and its predicted time."""

    group: Hashable
    plan: Hashable
    measured_seconds: float
    predicted_seconds: float


def summarise_errors(errors: Sequence[float]) -> ErrorSummary | None:
    """Summarise errors; None without any. `p90`: the smallest error that 90% of all do not exceed."""
    if not errors:
        return None
    sizes = sorted(abs(error) for error in errors)
    return ErrorSummary(
        count=len(sizes),
        median=statistics.median(sizes),
        mean=statistics.fmean(sizes),
        p90=sizes[math.ceil(0.9 * len(sizes)) - 1],
        worst=sizes[-1],
        mean_signed=statistics.fmean(errors),
    )


def rank_agreement(trials: Sequence[Trial]) -> RankAgreement | None:
    """Agreement over all groups that hold two plans or more; repeated runs of a plan count as their median."""
    groups = [plans for plans in _median_by_plan(trials).values() if len(plans) > 1]
    orders = [_pair_order(plans) for plans in groups]
    regrets = [_regret(plans) for plans in groups]
    pairs = sum(order.pairs for order in orders)
    if not pairs:
        return None
    return RankAgreement(
        groups=len(regrets),
        pairs=pairs,
        kendall_tau=sum(order.balance for order in orders) / pairs,
        median_regret=statistics.median(regrets),
        mean_regret=statistics.fmean(regrets),
        worst_regret=max(regrets),
    )


def group_agreements(trials: Sequence[Trial]) -> list[GroupAgreement]:
    """Agreement of each group, the largest regret first."""
    found = []
    for group, plans in _median_by_plan(trials).items():
        if len(plans) > 1:
            order = _pair_order(plans)
            tau = order.balance / order.pairs if order.pairs else None
            found.append(GroupAgreement(name=str(group), plans=len(plans), kendall_tau=tau, regret=_regret(plans)))
    return sorted(found, key=lambda agreement: -agreement.regret)


class _PairOrder(NamedTuple):
    """The number of `pairs` whose measured times differ, and by how much agreeing predictions outnumber disagreeing ones."""

    pairs: int
    balance: int


def _pair_order(plans: Sequence[tuple[float, float]]) -> _PairOrder:
    pairs = balance = 0
    for (measured_a, predicted_a), (measured_b, predicted_b) in combinations(plans, 2):
        if measured_a != measured_b:
            product = (measured_a - measured_b) * (predicted_a - predicted_b)
            pairs, balance = pairs + 1, balance + (product > 0) - (product < 0)
    return _PairOrder(pairs, balance)


def _regret(plans: Sequence[tuple[float, float]]) -> float:
    fastest_predicted = min(predicted for _, predicted in plans)
    # plans predicted equally fast are equally likely choices, so the mean measured time counts
    chosen = statistics.fmean(measured for measured, predicted in plans if predicted == fastest_predicted)
    return chosen / min(measured for measured, _ in plans) - 1


def _median_by_plan(trials: Sequence[Trial]) -> Mapping[Hashable, list[tuple[float, float]]]:
    runs: dict[Hashable, dict[Hashable, list[Trial]]] = defaultdict(lambda: defaultdict(list))
    for trial in trials:
        runs[trial.group][trial.plan].append(trial)
    return {
        group: [
            (
                statistics.median(trial.measured_seconds for trial in same_plan),
                statistics.median(trial.predicted_seconds for trial in same_plan),
            )
            for same_plan in by_plan.values()
        ]
        for group, by_plan in runs.items()
    }


def constant_efficiency_errors(ideal_seconds: Sequence[float], measured_seconds: Sequence[float]) -> list[float]:
    """Errors of the null model: every device at one constant share of its peak, fitted to these same runs.

    `ideal_seconds`: the step's FLOPs over the peak of all devices. The share is the median of ideal / measured.
    """
    if not ideal_seconds:
        return []
    efficiency = statistics.median(
        ideal / measured for ideal, measured in zip(ideal_seconds, measured_seconds, strict=True)
    )
    return [ideal / efficiency / measured - 1 for ideal, measured in zip(ideal_seconds, measured_seconds, strict=True)]
