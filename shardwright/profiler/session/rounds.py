"""Several sizes measured side by side, in rounds: a slow moment affects all of them a little, not one of them fully."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from shardwright.profiler.timing import Precision, Samples, TroubleError, Watch

from .crew import Crew

_ROUND_SECONDS = 0.02
_MOST_REPEATS_A_ROUND = 10
_MOST_DISTURBED_ROUNDS = 3


@dataclass(frozen=True)
class Limits:
    """The time limit of a batch, on `clock`, and that of a single size, after which its interval is accepted."""

    clock: Callable[[], float]
    deadline: float
    seconds_a_size: float

    @property
    def late(self) -> bool:
        return self.clock() >= self.deadline


@dataclass
class Rounds:
    """The prepared sizes of a batch by slot, with the first measured seconds of one repeat of each."""

    crew: Crew
    watch: Watch
    precision: Precision
    limits: Limits
    troubles: dict[int, TroubleError] = field(default_factory=dict)

    def measure(self, warm_seconds: Mapping[int, float], keep: Callable[[int, Samples], None]) -> None:
        """Repeat every slot of `warm_seconds` until its median is certain enough, then `keep` it.

        Slots that fail are in `troubles`. A round in which the reference work was slow is measured again, at most three
        times a batch. If the machine stays slow, that is its speed, and its seconds count like all others.
        """
        samples = {slot: Samples() for slot in warm_seconds}
        set_aside = 0
        disturbed_before = self.watch.look()
        while samples:
            seen = self._round(samples, warm_seconds)
            disturbed = self.watch.look()
            if (disturbed or disturbed_before) and set_aside < _MOST_DISTURBED_ROUNDS and not self.limits.late:
                set_aside += 1
                self.watch.disturbed_rounds += 1
            else:
                for slot, seconds in seen.items():
                    samples[slot].add(seconds)
            disturbed_before = disturbed
            for slot in [slot for slot, each in samples.items() if self._enough(slot, each)]:
                finished = samples.pop(slot)
                if slot not in self.troubles:
                    keep(slot, finished)

    def _round(self, samples: Mapping[int, Samples], warm_seconds: Mapping[int, float]) -> dict[int, list[float]]:
        seen: dict[int, list[float]] = {}
        for slot, so_far in samples.items():
            known = so_far.median_seconds if so_far.repeats else warm_seconds[slot]
            try:
                seen[slot] = self.crew.repeat(slot, self._repeats(known, so_far.repeats))
            except TroubleError as trouble:
                self.troubles[slot] = trouble
        return seen

    def _repeats(self, seconds: float, so_far: int) -> int:
        wanted = _MOST_REPEATS_A_ROUND if seconds <= 0 else math.ceil(_ROUND_SECONDS / seconds)
        most = min(_MOST_REPEATS_A_ROUND, self.precision.most_repeats - so_far)
        least = 1 if seconds >= self.precision.slow_seconds else 2
        return max(1, min(most, max(least, wanted)))

    def _enough(self, slot: int, samples: Samples) -> bool:
        if slot in self.troubles:
            return True
        if not samples.repeats:
            return False
        out_of_time = self.limits.late or samples.total_seconds >= self.limits.seconds_a_size
        least = self.precision.least(samples.median_seconds)
        if out_of_time and samples.repeats >= (self.precision.least_slow_repeats if self.limits.late else least):
            return True
        return samples.enough(self.precision)
