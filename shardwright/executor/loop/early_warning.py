"""A warning, early in a run, where the measured step time leaves the predicted interval."""

import statistics
from collections import deque
from collections.abc import Mapping

from shardwright.base import units as readable
from shardwright.specs import Estimate

_STEPS = 5
"""Steps whose median counts: two that something else disturbs do not move it out of the others."""


class EarlyWarning:
    """Looks at the steps after the first `warmup_steps` of the process. It warns once, until the steps are back in the interval.

    The interval is the widest one of the estimate.
    """

    def __init__(self, estimate: Estimate, *, warmup_steps: int) -> None:
        self._estimate, self._left_out = estimate, warmup_steps
        widest = max(estimate.step_seconds_intervals, key=lambda each: each.level, default=None)
        self._interval = widest
        self._recent: deque[tuple[float, Mapping[str, float]]] = deque(maxlen=_STEPS)
        self._warned = False

    def after(self, step: int, seconds: float, parts: Mapping[str, float]) -> str | None:
        """Return the warning after a step of `seconds`, of which `parts` took theirs, in one line; None where there is none."""
        if self._left_out > 0:
            self._left_out -= 1
            return None
        self._recent.append((seconds, parts))
        if self._interval is None or len(self._recent) < _STEPS:
            return None
        median = statistics.median(seconds for seconds, _ in self._recent)
        outside = not self._interval.low <= median <= self._interval.high
        warns, self._warned = outside and not self._warned, outside
        if not warns:
            return None
        return (
            f"step {step}: steps take {readable.seconds(median)}, and {readable.seconds(self._interval.low)} to "
            f"{readable.seconds(self._interval.high)} were predicted ({self._interval.level:.0%}); {self._part_off()}"
        )

    def _part_off(self) -> str:
        """Say which part differs most from its prediction, in seconds."""
        predicted = {
            "data": 0.0,
            "optimizer": self._estimate.step.optimizer,
            "forward_backward": self._estimate.step_seconds - self._estimate.step.optimizer,
        }
        measured = {name: statistics.median(parts.get(name, 0.0) for _, parts in self._recent) for name in predicted}
        off = max(predicted, key=lambda name: abs(measured[name] - predicted[name]))
        return f"most of it is {off}: {readable.seconds(measured[off])} for {readable.seconds(predicted[off])}"
