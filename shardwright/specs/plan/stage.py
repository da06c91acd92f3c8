"""What a pipeline stage holds: its layers and what each recomputes and offloads; and the replicas of one group of a mixed cluster."""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, get_args

from shardwright.specs.spec import Fraction, NonNegativeInt, PositiveInt, Spec

RecomputePolicy = Literal["none", "selective", "full"]
POLICIES: tuple[RecomputePolicy, ...] = get_args(RecomputePolicy)
ZeroStage = Literal[0, 1, 2, 3]


class Strategy(NamedTuple):
    """What one layer recomputes, and the share of its tokens whose kept activations go to the host between its passes."""

    recompute: RecomputePolicy
    activation_offload: float = 0


PLAIN_STRATEGIES: tuple[Strategy, ...] = tuple(Strategy(policy) for policy in POLICIES)
"""All activations stay on the device, for each policy in the order of `POLICIES`."""


class LayerRun(Spec):
    """`count` neighbouring layers that share one strategy.

    `zero_stage` is the ZeRO stage over `dp_shard` x `cp` (Rajbhandari et al. 2020, section 5). 1 shards the optimizer
    state, 2 also the gradients, 3 also the parameters, which each use gathers again. 0 shards nothing and needs dp_shard 1.
    `recompute` is what the backward pass computes again: nothing (none), the attention core (selective: Korthikanti et al.
    2022, section 5) or the whole layer (full). A fused kernel keeps no scores, so there selective equals none.
    `activation_offload` is the share of the tokens whose kept activations go to the host after the forward and come back for the
    backward (Zhao et al. 2024, MEMO, arXiv 2407.12117, swaps token by token).
    """

    count: PositiveInt
    recompute: RecomputePolicy = "none"
    zero_stage: ZeroStage = 0
    activation_offload: Fraction = 0

    @property
    def strategy(self) -> Strategy:
        return Strategy(self.recompute, self.activation_offload)


class Stage(Spec):
    """The layers of one pipeline chunk, in model order. The first stage also holds the embedding, the last the head.

    These two stages may hold no layer, because some frameworks count the embedding and the head as a layer each.
    `mtp_layers`: multi-token prediction layers that this stage holds, and with them a copy of the embedding; the last stage
    then has their heads and losses alone. Where no stage says any, all are on the last stage.
    """

    layers: tuple[LayerRun, ...]
    mtp_layers: NonNegativeInt = 0

    @property
    def layer_count(self) -> int:
        return sum(run.count for run in self.layers)

    def each_layer(self) -> Iterator[LayerRun]:
        """One `LayerRun` for each layer, in order; ignore its count."""
        for run in self.layers:
            for _ in range(run.count):
                yield run


class Replicas(Spec):
    """`count` replicas of a mesh in one group of a mixed cluster, with a batch and stages of their own.

    Each data-parallel rank of a replica computes `microbatches` microbatches of `micro_batch` sequences a step.
    """

    count: PositiveInt
    micro_batch: PositiveInt
    microbatches: PositiveInt
    stages: tuple[Stage, ...]


def strategies_of(stages: Iterable[Stage]) -> tuple[Strategy, ...]:
    """The plain strategies, and then those of the stages' layers that offload activations."""
    used = {run.strategy for stage in stages for run in stage.layers}
    return (*PLAIN_STRATEGIES, *sorted(used - set(PLAIN_STRATEGIES), key=lambda one: (POLICIES.index(one[0]), one[1])))
