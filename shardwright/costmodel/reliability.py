"""Throughput after failures: the time of checkpoints, of work lost since the last one, and of restarts.

Symbols: M mean seconds between failures of the whole run; d seconds of one checkpoint; R seconds of a restart; t
seconds of training between checkpoints. Failures are random (Poisson), of any device or node. Waiting for the slowest
rank is part of the step itself (`straggler.py`).
"""

import math
from typing import Annotated, Self

from pydantic import Field, model_validator

from shardwright.base import SpecError, units
from shardwright.specs import ClusterSpec, Estimate, NonNegativeFloat, PositiveFloat, PositiveInt, Spec

_SECONDS_PER_HOUR = 3600.0
_LEAST_SHARE = 1e-6  # a step in a million seconds is no training
Share = Annotated[float, Field(ge=0, le=1)]


class Reliability(Spec):
    """How often a run fails, and what it costs to continue. Nothing here has a default: each site has its own record.

    Attributes:
        mtbf_device_hours, mtbf_node_hours: mean hours between failures that stop the run, of one device and of the rest
            of its node (host, NICs, switch), or of its tray in a rack; at least one of the two.
        checkpoint_seconds: pause of training for one checkpoint.
        restart_seconds: from a failure until the next step runs: detection, rescheduling, start, reading the
            checkpoint.
        checkpoint_every: steps between checkpoints; None for Daly's optimum.
    """

    mtbf_device_hours: PositiveFloat | None = None
    mtbf_node_hours: PositiveFloat | None = None
    checkpoint_seconds: NonNegativeFloat
    restart_seconds: NonNegativeFloat
    checkpoint_every: PositiveInt | None = None

    @model_validator(mode="after")
    def _fails_somehow(self) -> Self:
        if self.mtbf_device_hours is None and self.mtbf_node_hours is None:
            raise ValueError("give mtbf_device_hours, mtbf_node_hours, or both")
        return self

    def mean_seconds_between_failures(self, devices: float, nodes: float) -> float:
        """Return the mean for `devices` in `nodes`, each of which stops the run. Their failure rates add up."""
        per_hour = 0.0
        for count, hours in ((devices, self.mtbf_device_hours), (nodes, self.mtbf_node_hours)):
            per_hour += count / hours if hours else 0.0
        return _SECONDS_PER_HOUR / per_hour


class Goodput(Spec):
    """The shares of a long run's time; the three shares add up to 1.

    `training_share`: steps that count. `checkpoint_share`: writing checkpoints. `failure_share`: lost steps and
    checkpoints, and restarts. `tokens_per_s`: the throughput times the first.
    """

    mean_seconds_between_failures: PositiveFloat
    checkpoint_every: PositiveInt
    training_share: Share
    checkpoint_share: Share
    failure_share: Share
    tokens_per_s: NonNegativeFloat


def goodput(estimate: Estimate, cluster: ClusterSpec, reliability: Reliability) -> Goodput:
    """Return the throughput and the shares of time of an estimate under `reliability`, on the devices it uses.

    Raises:
        SpecError: failures are so frequent that the run does not get from one checkpoint to the next.
    """
    devices = float(estimate.device_count)
    between_failures = reliability.mean_seconds_between_failures(devices, _hosts(cluster, devices))
    step, writing = estimate.step_seconds, reliability.checkpoint_seconds
    every = reliability.checkpoint_every or max(1, round(best_interval_seconds(between_failures, writing) / step))
    training = training_share(every * step, between_failures, writing, reliability.restart_seconds)
    if training < _LEAST_SHARE:
        raise SpecError(
            f"a failure every {units.seconds(between_failures)} leaves no time to train: {every} steps with their checkpoint "
            f"take {units.seconds(every * step + writing)} and a restart {units.seconds(reliability.restart_seconds)}"
        )
    checkpoints = training * writing / (every * step)
    return Goodput(
        mean_seconds_between_failures=between_failures,
        checkpoint_every=every,
        training_share=training,
        checkpoint_share=checkpoints,
        failure_share=max(0.0, 1 - training - checkpoints),
        tokens_per_s=training * estimate.tokens_per_s,
    )


def _hosts(cluster: ClusterSpec, devices: float) -> int:
    """Hosts of so many devices; on a mixed cluster each group gives the same share of its own."""
    if not cluster.is_mixed:
        return math.ceil(devices / cluster.node.devices_per_host)
    used = devices / cluster.devices
    return sum(math.ceil(used * group.devices / group.devices_per_host) for group in cluster.groups)


def best_interval_seconds(between_failures: float, checkpoint_seconds: float) -> float:
    """Return the seconds of training between checkpoints that lose the least time.

    sqrt(2 d M) (1 + sqrt(d / 2M) / 3 + (d / 2M) / 9) - d, and M where d is 2 M or more: Daly 2006, "A higher order
    estimate of the optimum checkpoint interval for restart dumps", Future Generation Computer Systems 22. The first
    factor alone is that of Young 1974, "A first order approximation to the optimum checkpoint interval", Communications
    of the ACM 17.
    """
    if checkpoint_seconds >= 2 * between_failures:
        return between_failures
    ratio = checkpoint_seconds / (2 * between_failures)
    young = math.sqrt(2 * checkpoint_seconds * between_failures)
    return young * (1 + math.sqrt(ratio) / 3 + ratio / 9) - checkpoint_seconds


def training_share(
    interval_seconds: float, between_failures: float, checkpoint_seconds: float, restart_seconds: float
) -> float:
    """Return the seconds of training that count over all seconds: t / (M exp(R / M) (exp((t + d) / M) - 1)).

    Source: Daly 2006. Failures may also come during checkpoints and restarts. The result is 0 where it underflows.
    """
    segments, restarts = (interval_seconds + checkpoint_seconds) / between_failures, restart_seconds / between_failures
    if segments + restarts > math.log(1e300):
        return 0.0
    return interval_seconds / (between_failures * math.exp(restarts) * math.expm1(segments))
