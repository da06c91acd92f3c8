"""Why a plan was chosen: its neighbours under one change, sentences with numbers, and a check by integer programs."""

from typing import TYPE_CHECKING

from shardwright.lazy import lazy_names

from .alternatives import Alternative
from .overlooked import assumed, overlooked
from .sentences import difference, explain, neighbours, what_was_chosen, what_was_given_up, why_not

if TYPE_CHECKING:
    from .certificate import certify
    from .integer_program import available_solvers

__all__ = [
    "Alternative",
    "assumed",
    "available_solvers",
    "certify",
    "difference",
    "explain",
    "neighbours",
    "overlooked",
    "what_was_chosen",
    "what_was_given_up",
    "why_not",
]

# solvers load when a certificate is asked for, not on the way to a plan
__getattr__ = lazy_names(__name__, {"available_solvers": ".integer_program", "certify": ".certificate"})
