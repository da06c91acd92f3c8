"""Context parallelism: each of cp ranks holds a part of every sequence, and attention lets its queries see the whole one.

Recurrent layers pass states on from piece to piece. Everything else works on single tokens, and needs no more than the position of each.
"""

from .arrangement import arrange_attention
from .check import check_context, check_in_turn
from .dealing import Dealing
from .in_turn import take_in_turn
from .lightning import lower_decays
from .linear import divide_linear_attention
from .pieces import SequencePieces, sequence_pieces
from .ring import ring_attention

__all__ = [
    "Dealing",
    "SequencePieces",
    "arrange_attention",
    "check_context",
    "check_in_turn",
    "divide_linear_attention",
    "lower_decays",
    "ring_attention",
    "sequence_pieces",
    "take_in_turn",
]
