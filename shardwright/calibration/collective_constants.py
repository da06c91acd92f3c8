"""The constants of collectives, fitted to measured collectives (collectives_fit.py is the command).

The fit is least squares on the log of seconds, with a robust loss, because a log has outliers (first calls, a mistuned
plugin). Each log counts for at most `_ROWS_OF_A_LOG` rows. Two things keep the fit from explaining one system by a constant of all.
Each log has its own latency factor (driver, NCCL version, whether the measured time includes the host's call). It is normal
around one on the log scale; predictions for another system do not use it. And each constant has a prior: what is known of it
apart from the table, with that knowledge's width.

Intervals come from the delete-one jackknife over hardware systems (Efron and Tibshirani 1993, chapter 11), on the log scale.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

from shardwright.base import FloatArray
from shardwright.costmodel.op_times import CALIBRATED, Collectives, Constants
from shardwright.specs import RankGroup

from .measured_collective import MeasuredCollective, node_of

_RESIDUAL_SCALE = 0.1
_ROWS_OF_A_LOG = 12
_LATENCY_FACTOR_WIDTH = 0.5
_EIGHTY_PERCENT = NormalDist().inv_cdf(0.9)
EFA, HOST_CALL = "efa_latency_seconds", "host_call_seconds"


class Known(NamedTuple):
    """What is known of a constant apart from the table: its value, and one standard deviation of its logarithm."""

    value: float
    width: float
    source: str


KNOWN = {
    "nvlink_fraction": Known(0.8, 0.1, "NCCL counts 235 to 240 of an A100's 300 GB/s"),
    "nic_fraction": Known(0.92, 0.03, "frames and headers of RDMA cost 3 to 5%, PCIe another few"),
    "in_switch_fraction": Known(0.66, 0.1, "rings reach 0.8; what the switch adds up has to pass it twice"),
    "collective_seconds": Known(7e-6, 0.4, "NCCL's baseLat, ring and tree with LL: 6.6 and 6.8 microseconds"),
    "low_latency_step": Known(0.25, 0.4, "NCCL's hwLat, LL over Simple: 0.18 over NVLink, 0.19 to 0.36 over a network"),
    "low_latency_rate": Known(0.25, 0.3, "NCCL's tuning model: LL at a quarter of the rate"),
    "chunk_fill": Known(0.5, 1.0, "chunks are synchronised as often as data are sent"),
    EFA: Known(60e-6, 1.0, "a few times an InfiniBand step"),
    HOST_CALL: Known(20e-6, 0.5, "a call of torch.distributed takes tens of microseconds"),
}


@dataclass(frozen=True)
class Fit:
    """Constants by name, including those of the measurements (`EFA`, `HOST_CALL`), and the factor of each fitted log."""

    values: dict[str, float]
    latency_factors: dict[str, float]

    @cached_property
    def constants(self) -> Constants:
        return replace(
            CALIBRATED, **{name: value for name, value in self.values.items() if name not in (EFA, HOST_CALL)}
        )

    def predict(self, rows: Sequence[MeasuredCollective], *, own_latency: bool = False) -> FloatArray:
        """Seconds of each of `rows`, shape (R,). `own_latency` applies the factor fitted to the row's own log."""
        seconds = np.empty(len(rows))
        for indices, like in _alike(rows):
            factor = self.latency_factors.get(like.log, 1.0) if own_latency else 1.0
            node = node_of(like, latency_factor=factor, efa_seconds=self.values[EFA])
            constants = replace(self.constants, collective_seconds=self.values["collective_seconds"] * factor)
            sizes = np.array([rows[index].size_bytes for index in indices])
            ranks = np.array([rows[index].ranks for index in indices])
            group = RankGroup(ranks / like.nodes, like.nodes, 1.0)
            call_seconds = self.values[HOST_CALL] if like.system.host_calls else 0.0
            seconds[indices] = Collectives(node, constants).seconds(like.name, sizes, group) + call_seconds
        return seconds


def _alike(rows: Sequence[MeasuredCollective]) -> list[tuple[list[int], MeasuredCollective]]:
    """Indices of rows that differ only in size and ranks, which one call predicts, and one of these rows."""
    groups: dict[object, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault((row.log, row.name, row.in_switch), []).append(index)
    return [(indices, rows[indices[0]]) for indices in groups.values()]


def fit(rows: Sequence[MeasuredCollective]) -> Fit:
    """Fit the constants to `rows`."""
    logs = sorted({row.log for row in rows})
    measured, weights = np.log([row.seconds for row in rows]), _weights(rows)
    start = np.concatenate([np.log([known.value for known in KNOWN.values()]), np.zeros(len(logs))])
    widths = np.concatenate([[known.width for known in KNOWN.values()], np.full(len(logs), _LATENCY_FACTOR_WIDTH)])

    def as_fit(point: FloatArray) -> Fit:
        values = np.exp(point)
        return Fit(
            dict(zip(KNOWN, values[: len(KNOWN)].tolist(), strict=True)),
            dict(zip(logs, values[len(KNOWN) :].tolist(), strict=True)),
        )

    def residuals(point: FloatArray) -> FloatArray:
        errors = (np.log(as_fit(point).predict(rows, own_latency=True)) - measured) * weights / _RESIDUAL_SCALE
        return np.concatenate([_robust(errors), (point - start) / widths])

    return as_fit(least_squares(residuals, start, method="lm").x)


def _weights(rows: Sequence[MeasuredCollective]) -> FloatArray:
    counts = {log: sum(row.log == log for row in rows) for log in {row.log for row in rows}}
    return np.array([min(1.0, math.sqrt(_ROWS_OF_A_LOG / counts[row.log])) for row in rows])


def _robust(errors: FloatArray) -> FloatArray:
    """Errors whose squares grow only linearly from one on (the soft L1 loss); the priors keep their plain square."""
    return np.asarray(np.sign(errors) * np.sqrt(2 * (np.sqrt(1 + errors**2) - 1)))


def left_out_fits(rows: Sequence[MeasuredCollective]) -> dict[str, Fit]:
    """For each hardware system, the fit to all others."""
    systems = sorted({row.system.hardware for row in rows})
    return {system: fit([row for row in rows if row.system.hardware != system]) for system in systems}


def intervals(whole: Fit, left_out: Mapping[str, Fit]) -> dict[str, tuple[float, float]]:
    """The 80% interval of each constant by the jackknife, at least a percent each way."""
    found = {}
    for name, value in whole.values.items():
        logs = np.log([one.values[name] for one in left_out.values()])
        count = len(logs)
        error = math.sqrt((count - 1) / count * float(((logs - logs.mean()) ** 2).sum()))
        reach = math.exp(max(_EIGHTY_PERCENT * error, 0.01))
        found[name] = (value / reach, value * reach)
    return found
