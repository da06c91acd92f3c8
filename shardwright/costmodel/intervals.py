"""How sure a predicted time is: intervals by what the prediction rests on.

Where a profile of the machine is behind the times, the interval comes from the profile's own errors on points that its
fit left out. Otherwise it comes from published runs of the same class, each predicted by a fit without its document
(intervals.toml). What varies between documents varies again in a new one, so the interval holds the next document, not
the mean of the known ones: a t-interval with the variance between documents and within them.
"""

import math
import tomllib
from functools import cache
from importlib.resources import files
from statistics import NormalDist
from typing import Any, Literal, NamedTuple, get_args

from shardwright.costmodel.op_times import OpTimes
from shardwright.specs import Device, Interval, TrainingSpec
from shardwright.specs.model import FeedForward, ModelSpec

RunClass = Literal["dense", "low precision", "experts", "adapters", "other device", "unsettled"]
RUN_CLASSES: tuple[RunClass, ...] = get_args(RunClass)
LEVELS = (0.80, 0.95)
# Devices of the dense 16-bit rows that the constants of compute are fitted to.
_CALIBRATED_DEVICES = ("a100", "a800", "h100", "h800")


class Factors(NamedTuple):
    """Measured over predicted seconds, low and high, at each of `LEVELS`; and the documents that these rest on."""

    at_80: tuple[float, float]
    at_95: tuple[float, float]
    documents: int


def run_class(model: ModelSpec, device: Device, training: TrainingSpec) -> RunClass:
    """The class of a run by what is least sure about it.

    "adapters": a part of the model is frozen. "unsettled": its times vary for reasons outside the plan (`is_unsettled`). "other device": no constant was fitted to its
    device. Then experts, and weight matmuls in less than 16 bits, neither of which a constant is fitted to.
    """
    if not training.trainable.trains_all:
        return "adapters"
    if is_unsettled(device, training):
        return "unsettled"
    if not device.name.startswith(_CALIBRATED_DEVICES):
        return "other device"
    if any(not isinstance(block.ffn, FeedForward) for block in model.layer_classes):
        return "experts"
    return "dense" if training.precision.linear is None else "low precision"


def is_unsettled(device: Device, training: TrainingSpec) -> bool:
    """Whether runs of this kind vary for reasons outside the plan: on some stacks, and on GPUs without bf16 (V100)."""
    return training.software.unsettled or (device.has_own_memory and "bf16" not in device.peak_flops_per_s)


def step_intervals(
    seconds: float, model: ModelSpec, training: TrainingSpec, times: OpTimes
) -> tuple[Interval, Interval]:
    """The 80% and 95% intervals of a step predicted to take `seconds`."""
    deviation = times.error_deviation
    if deviation is not None:
        bounds = tuple(_normal_bounds(level, deviation) for level in LEVELS)
    else:
        found = class_factors()[run_class(model, times.node.device, training)]
        bounds = (found.at_80, found.at_95)
    low_80, low_95 = (
        Interval(level=level, low=seconds * low, high=seconds * high)
        for level, (low, high) in zip(LEVELS, bounds, strict=True)
    )
    return low_80, low_95


def _normal_bounds(level: float, deviation: float) -> tuple[float, float]:
    reach = NormalDist().inv_cdf((1 + level) / 2) * deviation
    return math.exp(-reach), math.exp(reach)


SAFE = 0.9
"""The probability with which a plan should fit, unless a user asks for another reserve."""


def fits_probability(peak_bytes: float, capacity_bytes: float) -> float:
    """Probability that a run predicted to need `peak_bytes` finds room in `capacity_bytes`, by the errors of predicted peaks
    on published runs (intervals.toml, [memory]). The logarithm of measured over predicted in a new document has a t-distribution
    with one degree of freedom less than there are documents, as that of step times (calibration/interval_factors.py)."""
    from scipy.special import stdtr  # here, because this import takes longer than reading a cluster

    error = _table()["memory"]
    spare = math.log(capacity_bytes / peak_bytes)
    return float(stdtr(error["documents"] - 1, (spare - error["mean"]) / error["deviation"]))


def safe_reserve() -> float:
    """The share of the memory to leave free, so that a plan that fills the rest fits with the probability `SAFE` (`fits_probability`)."""
    return float(_table()["memory"]["safe_reserve"])


@cache
def class_factors() -> dict[RunClass, Factors]:
    """The table of intervals.toml."""
    entries = ((name, _table()[name]) for name in RUN_CLASSES)
    return {name: Factors(tuple(entry["at_80"]), tuple(entry["at_95"]), entry["documents"]) for name, entry in entries}


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((files(__package__) / "intervals.toml").read_text(encoding="utf-8"))
