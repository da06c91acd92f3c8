"""What it takes to train on a number of tokens: steps, time, device hours, money and energy."""

import math
from typing import NamedTuple

from shardwright.base import SECONDS_PER_HOUR, SpecError
from shardwright.specs import Estimate, TrainingSpec

from .asking import Case

_LEVEL = 0.8
JOULES_PER_KWH = 3.6e6


class TokenTime(NamedTuple):
    """Figures of a run on `tokens` tokens, without failures, checkpoints and evaluation.

    `seconds_low`, `seconds_high`: the 80% interval of the time. `cost`: in the unit of the price for a device hour, None
    without a price. `energy_joules`: of the devices at their power limit, which is the most that they draw, without hosts, network
    and cooling; None where the catalog knows no limit.
    """

    steps: int
    seconds: float
    seconds_low: float
    seconds_high: float
    device_hours: float
    cost: float | None
    energy_joules: float | None


def token_time(case: Case, tokens: float, price: float | None = None) -> TokenTime:
    """Return what the plan of a case takes for `tokens`, in whole steps: steps = ceil(tokens / tokens of a step).

    seconds = steps x step; device hours = seconds / 3600 x devices; cost = device hours x price; energy = device hours x power
    limit. The devices are those of the cluster.

    Raises:
        SpecError: `tokens` is not from 1, or `price` is not above 0.
    """
    check_tokens(tokens)
    if price is not None and not 0 < price < math.inf:
        raise SpecError(f"price {price:g}: give the money for one device and hour, above 0, such as 2.5")
    steps = steps_of(tokens, case.training)
    low, high = interval_of(case.estimate)
    hours = steps * case.estimate.step_seconds / SECONDS_PER_HOUR * case.cluster.devices
    limits = [(group.devices, group.device.power_watts) for group in case.cluster.groups]
    drawn = [devices * watts for devices, watts in limits if watts is not None]
    watts = sum(drawn) / case.cluster.devices if len(drawn) == len(limits) else None
    return TokenTime(
        steps=steps,
        seconds=steps * case.estimate.step_seconds,
        seconds_low=steps * low,
        seconds_high=steps * high,
        device_hours=hours,
        cost=None if price is None else hours * price,
        energy_joules=None if watts is None else hours * SECONDS_PER_HOUR * watts,
    )


def check_tokens(tokens: float) -> None:
    """Refuse what is no number of tokens.

    Raises:
        SpecError: less than 1, or not finite.
    """
    if not 1 <= tokens < math.inf:
        raise SpecError(f"tokens {tokens:g}: give a number from 1, such as 1e12")


def steps_of(tokens: float, training: TrainingSpec) -> int:
    return math.ceil(tokens / training.tokens_per_step)


def interval_of(estimate: Estimate) -> tuple[float, float]:
    """Low and high seconds of a step, of its 80% interval."""
    found = next(each for each in estimate.step_seconds_intervals if abs(each.level - _LEVEL) < 1e-9)
    return found.low, found.high
