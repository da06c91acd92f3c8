"""The timeline: when each rank did what, and how much memory it held."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardwright.base import units

Lane = Literal["compute", "pipeline send", "data parallel", "optimizer"]


class Span(NamedTuple):
    """An interval on one lane of one pipeline rank. `microbatch` is None for work that is done once a step."""

    rank: int
    lane: Lane
    name: str
    start_seconds: float
    end_seconds: float
    stage: int | None = None
    microbatch: int | None = None

    @property
    def seconds(self) -> float:
        return self.end_seconds - self.start_seconds


class MemoryCurve(NamedTuple):
    """Bytes on one device of a pipeline rank: `bytes[i]` from `seconds[i]` until `seconds[i + 1]`; both have shape [changes]."""

    seconds: NDArray[np.float64]
    bytes: NDArray[np.float64]

    @property
    def peak_bytes(self) -> float:
        return float(self.bytes.max())


@dataclass(frozen=True)
class Timeline:
    """One optimizer step. `spans` in the order of their start; `memory` holds one curve per pipeline rank.

    Where data parallelism reaches over `groups` of a mixed cluster, `pp` counts the ranks of one replica in each, group by group.
    """

    pp: int
    spans: tuple[Span, ...]
    memory: tuple[MemoryCurve, ...]
    groups: int = 1

    def __repr__(self) -> str:
        ranks = f"{self.pp} pipeline rank{'s' * (self.pp > 1)}"
        return f"<Timeline {units.seconds(self.step_seconds)}, {units.count(len(self.spans))} spans on {ranks}>"

    def rank_name(self, rank: int) -> str:
        """Return the name of a rank in tables: `2`, or `2 of group 1` where there are several groups."""
        group, own = divmod(rank, self.pp // self.groups)
        return str(own) if self.groups == 1 else f"{own} of group {group + 1}"

    @property
    def step_seconds(self) -> float:
        return max((span.end_seconds for span in self.spans), default=0.0)

    def lane(self, rank: int, lane: Lane) -> tuple[Span, ...]:
        return tuple(span for span in self.spans if span.rank == rank and span.lane == lane)

    def idle_fractions(self) -> NDArray[np.float64]:
        """[pp]: share of the step in which a rank neither computes nor runs its optimizer; 0 for a step of no time."""
        busy_seconds = np.zeros(self.pp)
        for span in self.spans:
            if span.lane in ("compute", "optimizer"):
                busy_seconds[span.rank] += span.seconds
        step_seconds = self.step_seconds
        return 1 - busy_seconds / step_seconds if step_seconds else busy_seconds
