"""A dry run: what one step of a plan does on some of its ranks, traced, beside what the estimate charges for it."""

from typing import Literal

from shardwright.specs.spec import NonNegativeFloat, NonNegativeInt, PositiveInt, Spec

TrafficAxis = Literal["tp", "cp", "ep", "dp", "pp"]


class Traced(Spec):
    """One quantity of a step, as it was traced and as the cost model charges it."""

    traced: NonNegativeFloat
    charged: NonNegativeFloat

    @property
    def difference(self) -> float:
        """Traced less charged."""
        return self.traced - self.charged

    @property
    def relative_difference(self) -> float:
        """Traced over charged, less 1; 0 where both are 0."""
        if self.traced == self.charged:
            return 0.0
        return self.traced / self.charged - 1 if self.charged else float("inf")


class TracedTraffic(Spec):
    """One collective over one axis in a step of a rank. `bytes` of a call are the whole tensor, gathered or unreduced. For an
    all-to-all they are all that the rank holds before it, for a send the message.

    `dp` has the gathers and reductions of weights and gradients, those of experts too, `pp` the messages between stages.
    """

    axis: TrafficAxis
    collective: str
    calls: Traced
    bytes: Traced


class UnchargedTraffic(Spec):
    """Collectives of a step that the cost model leaves out on purpose, by cause."""

    cause: str
    calls: NonNegativeFloat
    bytes: NonNegativeFloat


class TracedRank(Spec):
    """A step of one rank. `alike`: pipeline ranks whose stages hold the same, so that this one stands for them.

    `flops` are those of matmuls and attention. `activation_bytes`: what autograd saves in one microbatch's forward on all
    stages of the rank, without parameters.
    """

    rank: NonNegativeInt
    pipeline_rank: NonNegativeInt
    alike: tuple[NonNegativeInt, ...]
    traffic: tuple[TracedTraffic, ...]
    uncharged: tuple[UnchargedTraffic, ...]
    flops: Traced
    activation_bytes: Traced

    def bytes_of(self, axis: TrafficAxis) -> Traced:
        """Bytes of all collectives over `axis`."""
        found = [entry.bytes for entry in self.traffic if entry.axis == axis]
        return Traced(traced=sum(one.traced for one in found), charged=sum(one.charged for one in found))


class DryRun(Spec):
    """A dry run of a plan. `traced_microbatches`: numbers of microbatches of the steps that were traced; those of the plan, or
    two smaller ones whose difference is that of each further microbatch."""

    kind: Literal["shardwright-dry-run"] = "shardwright-dry-run"
    schema_version: Literal[1] = 1
    world_size: PositiveInt
    microbatches: PositiveInt
    traced_microbatches: tuple[PositiveInt, ...]
    ranks: tuple[TracedRank, ...]

    @property
    def axes(self) -> tuple[TrafficAxis, ...]:
        """Axes with any traffic on these ranks."""
        order: tuple[TrafficAxis, ...] = ("tp", "cp", "ep", "dp", "pp")
        return tuple(axis for axis in order if any(entry.axis == axis for rank in self.ranks for entry in rank.traffic))
