"""The mesh: degrees of the axes, and the groups of ranks that they make.

Consecutive ranks differ in `tp` first, in `pp` last. `ep` divides dp_shard * cp * tp and regroups those ranks for expert
layers (folded: Liu et al. 2025, "MoE Parallel Folding", arXiv 2504.14960, section 3): neighbouring ranks first share the
columns of an expert (`expert_tp`), then hold different experts (`ep`), and those that hold the same ones shard them. `etp`
sets how many share an expert; 0 is what `ep` leaves of tp. With ep 1 that is the mesh of the other layers; with ep a multiple
of tp and etp 0 every expert is whole.

`order` says which axes lie innermost. "tp-cp-dp-pp" is the numbering above. In "tp-cp-pp-dp" consecutive ranks differ in tp,
then cp, then pp, and in data parallelism last (Megatron-LM, --use-tp-pp-dp-mapping): a stage's ranks are then blocks of
cp * tp neighbours, with the blocks of the other stages between them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, Self, TypeVar, get_args

import numpy as np
from pydantic import model_validator

from shardwright.base import Array, IntArray, Number, divisors, listed

from .spec import NonNegativeInt, PositiveInt, Spec

MeshOrder = Literal["tp-cp-dp-pp", "tp-cp-pp-dp"]
ORDERS: tuple[MeshOrder, ...] = get_args(MeshOrder)
PIPELINE_OUTERMOST, PIPELINE_INSIDE_DATA = ORDERS

Degree = TypeVar("Degree", int, IntArray)


class Degrees(Generic[Degree]):
    """Numbers derived from the degrees of the axes, for one mesh or for an array of meshes."""

    if TYPE_CHECKING:
        pp: Degree
        dp_replicate: Degree
        dp_shard: Degree
        cp: Degree
        tp: Degree
        ep: Degree
        etp: Degree

    @property
    def dp(self) -> Degree:
        """Number of data-parallel ranks: each reads its own sequences."""
        return self.dp_replicate * self.dp_shard

    @property
    def data_ranks(self) -> Degree:
        """Ranks whose gradients of one layer are summed; each has different tokens."""
        return self.dp * self.cp

    @property
    def ranks(self) -> Degree:
        return self.pp * self.data_ranks * self.tp

    @property
    def shard_ranks(self) -> Degree:
        """Ranks that ZeRO 1 to 3 shard over: those of dp_shard and cp, whose gradients are summed together (as in torchtitan)."""
        return self.dp_shard * self.cp

    @property
    def expert_tp(self) -> Degree:
        """Ranks that split the columns of one expert: `etp`, or where that is 0 tp / ep, or 1 where ep is a multiple of tp."""
        return _first_set(self.etp, self.tp // _common(self.tp, self.ep))

    @property
    def same_experts(self) -> Degree:
        """Ranks that hold the same columns of the same experts."""
        return self.data_ranks * self.tp // (self.ep * self.expert_tp)

    @property
    def expert_shard_ranks(self) -> Degree:
        """Ranks that ZeRO 1 to 3 shard the same experts over."""
        return self.same_experts // self.dp_replicate


def _common(one: Degree, other: Degree) -> Degree:
    found = np.gcd(one, other)
    return int(found) if isinstance(one, int) else found


def experts_fold(block: int, tp: int, ep: int, etp: int) -> bool:
    """Whether ep and etp fold into the `block` of dp_shard * cp * tp ranks that hold one copy of the other layers."""
    if etp:
        return ep > 1 and tp % etp == 0 and block % (ep * etp) == 0
    return block % ep == 0 and (ep % tp == 0 or tp % ep == 0)


def _first_set(given: Degree, other: Degree) -> Degree:
    return (given or other) if isinstance(given, int) else np.where(given > 0, given, other)


class Mesh(Spec, Degrees[int]):
    """Degrees of the axes, outermost first, and the order in which they are laid over the machine."""

    pp: PositiveInt = 1
    dp_replicate: PositiveInt = 1
    dp_shard: PositiveInt = 1
    cp: PositiveInt = 1
    tp: PositiveInt = 1
    ep: PositiveInt = 1
    etp: NonNegativeInt = 0
    order: MeshOrder = PIPELINE_OUTERMOST

    @property
    def degrees(self) -> dict[str, int]:
        """The degree of each axis by its name, outermost first."""
        return {name: degree for name, degree in self if isinstance(degree, int)}

    def numbered(self) -> IntArray:
        """Return the number of the rank at each place, shape (pp, dp_replicate, dp_shard, cp, tp), in either order."""
        if self.order == PIPELINE_OUTERMOST:
            return np.arange(self.ranks).reshape(self.pp, self.dp_replicate, self.dp_shard, self.cp, self.tp)
        inside = np.arange(self.ranks).reshape(self.dp_replicate, self.dp_shard, self.pp, self.cp, self.tp)
        return np.moveaxis(inside, 2, 0)

    @model_validator(mode="after")
    def _experts_fold(self) -> Self:
        block = self.shard_ranks * self.tp
        if self.etp:
            self._check_splits_experts(block)
        elif not experts_fold(block, self.tp, self.ep, 0):
            allowed = [degree for degree in divisors(block) if experts_fold(block, self.tp, degree, 0)]
            raise ValueError(
                f"ep {self.ep} does not fold into dp_shard {self.dp_shard} x cp {self.cp} x tp {self.tp}: it must divide "
                f"{block}, and tp or be a multiple of it; allowed: {listed(allowed)}"
            )
        return self

    def _check_splits_experts(self, block: int) -> None:
        if self.ep == 1:
            raise ValueError(
                f"etp {self.etp} splits the experts that ep spreads, and ep is 1; set ep, or leave etp out"
            )
        if self.tp % self.etp:
            raise ValueError(f"etp {self.etp} does not divide tp {self.tp}; allowed: {listed(divisors(self.tp))}")
        if block % (self.ep * self.etp):
            allowed = divisors(block // self.etp)
            raise ValueError(
                f"ep {self.ep} x etp {self.etp} does not fold into dp_shard {self.dp_shard} x cp {self.cp} x tp {self.tp}: ep must "
                f"divide {block // self.etp}; allowed: {listed(allowed)}"
            )

    def __str__(self) -> str:
        shown = " x ".join(f"{axis}{degree}" for axis, degree in self.degrees.items() if degree > 1) or "1 rank"
        return shown if self.order == PIPELINE_OUTERMOST else f"{shown} in order {self.order}"


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
