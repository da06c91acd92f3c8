"""Expert parallelism: the time of trading tokens with the experts of other ranks, and the imbalance of their load.

The mesh is folded (see `Mesh`): experts regroup the ranks of dp_shard x cp x tp. Compute does not hide the trade, as
the default schedules of the frameworks don't hide it.
"""

from dataclasses import dataclass, replace

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.layers.operators import ExpertSplit
from shardwright.costmodel.op_times import OpTimes
from shardwright.specs import (
    BYTES_PER_ELEMENT,
    EXPERT_DISPATCH,
    Candidates,
    RankGroup,
    TrainingSpec,
    ep_group,
    expert_tp_group,
    replicate_group,
    shard_group,
)
from shardwright.specs.model import Block, FeedForward, MixtureOfExperts, Parameter

from .placement import placed


def expert_split(candidates: Candidates, training: TrainingSpec, experts: int | None = None) -> ExpertSplit:
    """Return how each candidate spreads experts, shapes (N,). `experts`: those of a layer, which `hot_experts` needs.

    Imbalance slows a step only where experts lie on several ranks. A rank that holds all experts computes the same
    total. With a capacity factor, every expert computes that multiple of an even share. Tokens above it are dropped,
    and missing ones are padded (Lepikhin et al. 2020, GShard, arXiv 2006.16668, section 2.2).
    """
    uneven, sent = np.where(candidates.ep > 1, training.expert_imbalance, 1.0), np.ones(len(candidates))
    if training.hot_experts and experts:
        found = [placed(experts, int(ep), training.expert_imbalance, training.hot_experts) for ep in candidates.ep]
        computed, left = np.array(found).T
        uneven = np.where(candidates.ep > 1, computed, 1.0)
        sent = np.where(candidates.ep > 1, left / computed, 1.0)
    load = uneven if training.expert_capacity is None else np.full(len(candidates), training.expert_capacity)
    spread = ExpertSplit(ep=candidates.ep, expert_tp=candidates.expert_tp, load=load, sent=sent)
    if training.tokens_per_centroid == 1:
        return spread
    tokens = candidates.micro_batch * float(training.seq_len) / candidates.cp
    averaged = np.where(candidates.ep > 1, training.tokens_per_centroid, 1)
    return replace(
        spread, per_centroid=averaged, own_tokens=tokens * candidates.expert_tp / np.asarray(candidates.tp, dtype=float)
    )


def hidden_pairs(block: Block, candidates: Candidates) -> Array:
    """(N,): gathers and reductions of the hidden states over tp in one pass;
    none for experts that tokens are sent to."""
    sublayers = np.full(len(candidates), block.sublayers)
    if isinstance(block.ffn, FeedForward) or block.parallel:
        return sublayers
    return np.where(candidates.ep > 1, block.has_attention + bool(block.ffn.shared_width), sublayers)


def spread_parameters(weights: list[Parameter], candidates: Candidates) -> Array:
    """(N,): elements of the experts on one rank where ep spreads them; 0 where it does not."""
    experts = sum(p.elements for p in weights if p.expert)
    return np.where(candidates.ep > 1, experts / (candidates.ep * candidates.expert_tp), 0.0)


@dataclass(frozen=True)
class ExpertExchange:
    """Seconds of the exchange between the ranks of one expert layer, for `tokens` (N,) of a tp group."""

    training: TrainingSpec
    times: OpTimes
    candidates: Candidates
    tokens: Array
    hidden: int

    def pass_seconds(self, ffn: FeedForward | MixtureOfExperts) -> Array:
        """(N,): seconds of one forward, and equally of one backward: tokens go to their experts, and results come back.

        The result is 0 without experts and where ep is 1. The tp group's own gather and reduction then suffice
        (layer.py). Ranks that split the columns of an expert gather the received tokens and reduce-scatter the results. In this
        project's executor (`Stack.counts_exchanges`) each of them is sent the tokens itself, and the sum over tp adds up the
        results.
        """
        if isinstance(ffn, FeedForward) or (self.candidates.ep == 1).all():
            return np.zeros(len(self.candidates))
        split = expert_split(self.candidates, self.training, ffn.experts)
        copies = split.sent * split.copies(self.tokens, ffn.computed_top_k, self.candidates.tp)
        splitting = expert_tp_group(self.candidates, self.times.node)
        shared_bytes = self._token_bytes * copies
        gather = self.times.collective_seconds("all_gather", shared_bytes, splitting)
        reduce = self.times.collective_seconds("reduce_scatter", shared_bytes, splitting)
        own_tokens = copies / (self.candidates.expert_tp * ffn.computed_top_k)
        whole = self.candidates.expert_dispatch == EXPERT_DISPATCH.index("all-to-all")
        forwarded = 2.0 * self._forwarded(ffn, own_tokens) + gather + reduce
        traded = 2.0 * self._traded(own_tokens * ffn.computed_top_k) + gather + reduce
        if self.training.software.counts_exchanges:
            traded = 2.0 * self._traded(copies / split.merged(ffn))
        return np.where(self.candidates.ep > 1, np.where(whole, traded, forwarded), 0.0)

    def balance_seconds(self, ffn: FeedForward | MixtureOfExperts) -> Array:
        """(N,): seconds of one forward in which the data-parallel ranks add up how often each expert is chosen, where the loss on
        routers is that of all of them: one all-reduce of a number for each of the router's choices. Counts have no gradient."""
        nothing = np.zeros(len(self.candidates))
        if isinstance(ffn, FeedForward) or not self.training.global_balance:
            return nothing
        size, node = nothing + BYTES_PER_ELEMENT["fp32"] * ffn.choices, self.times.node
        groups = (shard_group(self.candidates, node), replicate_group(self.candidates, node))
        return sum((self.times.collective_seconds("all_reduce", size, group) for group in groups), nothing)

    @property
    def _token_bytes(self) -> float:
        return float(self.training.precision.activation_bytes_per_element * self.hidden)

    def _traded(self, copies: Array) -> Array:
        """All-to-all of a copy for every expert of a token (Fedus et al. 2021, arXiv 2101.03961, section 2.2)."""
        return self.times.collective_seconds(
            "all_to_all", self._token_bytes * copies, ep_group(self.candidates, self.times.node)
        )

    def _forwarded(self, ffn: MixtureOfExperts, tokens: Array) -> Array:
        """One copy of a token goes to each node over the network. Links of the node
        forward it to each rank at the same time."""
        group = ep_group(self.candidates, self.times.node)
        inside_ranks, nodes = np.asarray(group.ranks_per_node), np.asarray(group.nodes)
        between = RankGroup(ranks_per_node=np.ones_like(nodes), nodes=nodes, sharing=group.sharing * inside_ranks)
        within = RankGroup(ranks_per_node=inside_ranks, nodes=np.ones_like(nodes), sharing=group.sharing)
        to_nodes = self._token_bytes * tokens * self._places(ffn, nodes)
        to_ranks = self._token_bytes * tokens * self._places(ffn, self.candidates.ep)
        return np.maximum(
            self.times.collective_seconds("all_to_all", to_nodes, between),
            self.times.collective_seconds("all_to_all", to_ranks, within),
        )

    def _places(self, ffn: MixtureOfExperts, places: Array) -> Array:
        """Return the mean number of `places`, each with equally many experts, that hold the k experts of one token.

        With random routing a place holds none of them with probability (1 - 1/places)^k. With consecutive routing they
        fill one place after the other.
        """
        if self.training.routing == "consecutive":
            return np.maximum(1.0, ffn.computed_top_k * places / ffn.experts)
        return np.asarray(places * (1.0 - (1.0 - 1.0 / places) ** ffn.computed_top_k))
