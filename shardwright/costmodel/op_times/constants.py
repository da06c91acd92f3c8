"""The constants of the cost model that no data sheet gives: one table, constants.toml, with the source of each fit.

Formulas read them from their operation times (`OpTimes.constants`), never from a global, so that a fit can try others.
A field is a number, or an array with one value a candidate. One evaluation can then try many vectors of constants.
"""

import tomllib
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shardwright.specs import Spec

Value = NDArray[Any] | float


class Constant(Spec):
    """One row of the table. `low` and `high`: 80% interval of a fitted value, or the possible range of an assumed one.

    `how`: fitted (on the data named in `source`), counted, or assumed.
    """

    value: float
    unit: str
    meaning: str
    low: float
    high: float
    how: Literal["fitted", "counted", "assumed"]
    source: str


@cache
def constants_table() -> dict[str, Constant]:
    """Return every constant by name, as in constants.toml."""
    text = (files(__package__) / "constants.toml").read_text(encoding="utf-8")
    return {name: Constant.parse(row, source=f"constants.toml [{name}]") for name, row in tomllib.loads(text).items()}


@dataclass(frozen=True)
class Constants:
    """The values. Their units and meanings are in constants.toml."""

    matmul_fraction: Value
    blackwell_matmul_fraction: Value
    matmul_k_half: Value
    misaligned_slowdown: Value
    misaligned_batched_slowdown: Value
    memory_fraction: Value
    flash_1_fraction: Value
    flash_2_softmax: Value
    flash_3_softmax: Value
    blackwell_softmax: Value
    older_kernel_fraction: Value
    attention_length_half: Value
    attention_backward_fraction: Value
    loss_bytes_per_logit: Value
    nvlink_fraction: Value
    nic_fraction: Value
    in_switch_fraction: Value
    collective_seconds: Value
    low_latency_step: Value
    low_latency_rate: Value
    chunk_fill: Value
    host_seconds_per_kernel: Value
    broadcast_seconds: Value
    step_noise: Value
    collective_multiprocessors: Value
    copy_multiprocessors: Value
    busy_nic_share: Value
    allocator_slack: float
    heap_slack: float
    gather_slack: float
    fragment_share: float
    communicator_bytes: float
    memory_reserve: float
    context_bytes: float
    host_memory_fraction: float


def calibrated() -> Constants:
    """Return the values of the table."""
    table = constants_table()
    return Constants(**{field.name: table[field.name].value for field in fields(Constants)})


CALIBRATED = calibrated()


def over(constant: Value, like: Value) -> Value:
    """Return `constant` with its candidates on the first axis, shaped to broadcast over `like` (N, ...)."""
    if isinstance(constant, float):  # nearly all are; numpy takes longer to say so
        return constant
    missing = np.ndim(like) - np.ndim(constant)
    if np.ndim(constant) == 0 or missing <= 0:
        return constant
    return np.asarray(constant).reshape(np.shape(constant) + (1,) * missing)
