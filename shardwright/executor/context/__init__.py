"""Context parallelism: each of cp ranks holds a part of every sequence, and attention lets its queries see the whole one.

Recurrent layers pass states on from piece to piece. Everything else works on single tokens, and needs no more than the position of each.
"""

from .attention import see_whole_sequence
from .check import check_context, check_in_turn
from .dealing import Dealing
from .in_turn import attend_in_turn, take_in_turn
from .lightning import lower_decays
from .linear import divide_linear_attention
from .pieces import SequencePieces, sequence_pieces
from .ring import ring_attention

__all__ = [
    "Dealing",
    "SequencePieces",
    "attend_in_turn",
    "check_context",
    "check_in_turn",
    "divide_linear_attention",
    "lower_decays",
    "ring_attention",
    "see_whole_sequence",
    "sequence_pieces",
    "take_in_turn",
]
