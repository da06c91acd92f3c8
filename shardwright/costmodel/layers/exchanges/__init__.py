"""What the ranks of one layer send each other: keys and values of a sequence, and tokens to experts, with what that costs besides."""

from .context import ContextExchange
from .counted import CountedExchanges, LayerSeconds, SummedGradients
from .experts import ExpertExchange, expert_split, hidden_pairs, spread_parameters
from .linear import LinearExchange, context_of, layout_changes
from .scales import ScaleAgreements

__all__ = [
    "ContextExchange",
    "CountedExchanges",
    "ExpertExchange",
    "LayerSeconds",
    "LinearExchange",
    "ScaleAgreements",
    "SummedGradients",
    "context_of",
    "expert_split",
    "hidden_pairs",
    "layout_changes",
    "spread_parameters",
]
