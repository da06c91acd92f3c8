"""The mesh: degrees of the axes, and the groups of ranks that they make."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from pydantic import model_validator

from shardwright.base import Array, Number

from .spec import PositiveInt, Spec


class Mesh(Spec):
    """Degrees of the axes, outermost first; consecutive ranks differ in `tp` first, in `pp` last.

    `ep` divides dp_shard * cp * tp and regroups those ranks for expert layers (folded: Liu et al. 2025, "MoE Parallel
    Folding", arXiv 2504.14960, section 3). Neighbouring ranks first share the columns of an expert (`expert_tp`, the part
    of tp that `ep` leaves). The next ones hold different experts (`ep`). Ranks with the same experts shard them
    (`expert_shards`). With ep 1 this is the mesh of the other layers. With ep a multiple of tp every expert is whole.
    """

    pp: PositiveInt = 1
    dp_replicate: PositiveInt = 1
    dp_shard: PositiveInt = 1
    cp: PositiveInt = 1
    tp: PositiveInt = 1
    ep: PositiveInt = 1

    @property
    def dp(self) -> int:
        """Number of data-parallel ranks: each reads its own sequences."""
        return self.dp_replicate * self.dp_shard

    @property
    def ranks(self) -> int:
        return self.pp * self.dp * self.cp * self.tp

    @property
    def shards(self) -> int:
        """Ranks that ZeRO shards over: those of dp_shard and cp, whose gradients are summed together (as in torchtitan)."""
        return self.dp_shard * self.cp

    @property
    def expert_tp(self) -> int:
        """Ranks that split the columns of one expert."""
        return max(1, self.tp // self.ep)

    @property
    def expert_shards(self) -> int:
        """Ranks that hold the same experts, over which ZeRO shards them."""
        return self.shards * self.tp // (self.ep * self.expert_tp)

    @model_validator(mode="after")
    def _experts_fold(self) -> Self:
        block = self.shards * self.tp
        if block % self.ep or (self.ep % self.tp and self.tp % self.ep):
            allowed = [d for d in range(1, block + 1) if block % d == 0 and (d % self.tp == 0 or self.tp % d == 0)]
            raise ValueError(
                f"ep {self.ep} does not fold into dp_shard {self.dp_shard} x cp {self.cp} x tp {self.tp}: it must divide "
                f"{block}, and tp or be a multiple of it; allowed: {', '.join(map(str, allowed))}"
            )
        return self

    def __str__(self) -> str:
        shown = [f"{axis}{degree}" for axis, degree in self if degree > 1]
        return " x ".join(shown) or "1 rank"


@dataclass(frozen=True)
class RankGroup:
    """The ranks of one collective, as the network sees them (arrays broadcast over plans).

    `ranks_per_node` of them share a node, `nodes` nodes take part; `sharing` such groups use a node's NICs at once.
    """

    ranks_per_node: Number
    nodes: Number
    sharing: Number

    @property
    def ranks(self) -> Array:
        return np.asarray(self.ranks_per_node, dtype=float) * self.nodes

    def column(self) -> "RankGroup":
        """The same groups of shape (N,) as columns (N, 1), to broadcast over rows."""
        return RankGroup(*(np.asarray(part)[:, None] for part in (self.ranks_per_node, self.nodes, self.sharing)))
