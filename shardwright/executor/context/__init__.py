"""Context parallelism: each of cp ranks holds a part of every sequence, and attention lets its queries see the whole one.

Everything but attention works on single tokens. It needs no more than the position of each.
"""

from .attention import see_whole_sequence
from .check import check_context
from .dealing import Dealing
from .ring import ring_attention

__all__ = ["Dealing", "check_context", "ring_attention", "see_whole_sequence"]
