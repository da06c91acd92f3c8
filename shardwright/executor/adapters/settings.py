"""What adapters are beside their weights: rank and scale."""

import math

from shardwright.specs import PositiveFloat, PositiveInt, Spec


class AdapterSettings(Spec):
    """Rank and scale of all adapters of a run.

    `alpha`: the numerator of the scale, `lora_alpha` of PEFT. `rank_stabilised`: the scale is alpha / sqrt(rank) in place of
    alpha / rank (Kalajdzievski 2023, arXiv 2312.03732; PEFT's `use_rslora`).
    """

    rank: PositiveInt
    alpha: PositiveFloat
    rank_stabilised: bool = False

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)
