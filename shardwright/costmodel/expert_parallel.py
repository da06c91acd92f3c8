"""Expert parallelism: what trading tokens with the experts of other ranks takes, and how unevenly these are loaded.

The mesh is folded (see `Mesh`): experts regroup the ranks of dp_shard x cp x tp. Nothing hides the trade here, as the frameworks'
default schedules do not.
"""

from dataclasses import dataclass

import numpy as np

from .candidates import Candidates, ep_group, expert_tp_group
from .cluster import ClusterSpec
from .feed_forward import MixtureOfExperts
from .op_times import Array, OpTimes
from .operators import ExpertSplit
from .training import TrainingSpec


def expert_split(candidates: Candidates, training: TrainingSpec) -> ExpertSplit:
    """How each candidate spreads experts, shapes (N,).

    Imbalance slows only where experts lie on several ranks: one rank that holds all of them computes the same in all. A
    capacity factor makes every expert compute that much of an even share, whatever it is sent: what is over is dropped, what
    is under padded (Lepikhin et al. 2020, GShard, arXiv 2006.16668, section 2.2).
    """
    uneven = np.where(candidates.ep > 1, training.expert_imbalance, 1.0)
    load = uneven if training.expert_capacity is None else np.full(len(candidates), training.expert_capacity)
    return ExpertSplit(ep=candidates.ep, expert_tp=candidates.expert_tp, load=load)


@dataclass(frozen=True)
class ExpertExchange:
    """Seconds that the ranks of one expert layer spend on each other, for `tokens` (N,) that a tp group holds."""

    cluster: ClusterSpec
    training: TrainingSpec
    times: OpTimes
    candidates: Candidates
    tokens: Array
    hidden: int

    def pass_seconds(self, ffn: MixtureOfExperts) -> Array:
        """Of one forward, and as much of one backward: tokens to their experts and results back, shape (N,).

        Every rank sends T k / t copies of h elements, T tokens of its tp group, k experts a token: an all-to-all each way (Fedus
        et al. 2021, arXiv 2101.03961, section 2.2). Ranks that split the columns of an expert gather what each received and
        reduce-scatter the results. 0 where ep is 1: then the tp group's own gather and reduce serve (row_work.py).
        """
        split = expert_split(self.candidates, self.training)
        element = self.training.precision.activation_bytes_per_element
        copy_bytes = element * self.hidden * split.copies(self.tokens, ffn.top_k, self.candidates.tp)
        trading, splitting = ep_group(self.candidates, self.cluster), expert_tp_group(self.candidates, self.cluster)
        own_bytes = copy_bytes / self.candidates.expert_tp
        trade = 2.0 * self.times.collective_seconds("all_to_all", own_bytes, trading)
        gather = self.times.collective_seconds("all_gather", copy_bytes, splitting)
        reduce = self.times.collective_seconds("reduce_scatter", copy_bytes, splitting)
        return np.where(self.candidates.ep > 1, trade + gather + reduce, 0.0)
