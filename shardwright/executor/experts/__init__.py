"""Expert parallelism: the experts of a layer spread over ep ranks, to which their tokens travel and from which they come back.

Nothing is dropped: ranks first tell each other how many tokens go to each expert, and then exchange that many (uneven
all-to-all). Router and shared experts stay with the dense layers. The experts of a rank run transformers' own code, with
grouped matmuls where transformers has them, on the tokens in hand.
"""

from .check import check_experts, experts_paths
from .exchange import SpreadRanks, spread_experts

__all__ = ["SpreadRanks", "check_experts", "experts_paths", "spread_experts"]
