"""Parts of a layer's passes: the attention core (what it computes, how long it takes, in 8 bits, and within packed documents), and the
dispatch of tokens to experts, also as means of several."""

from .averaging import HASH_COORDINATES, HASHES, Averaging
from .dispatch import Dispatch
from .flops import attention_core_flops
from .passes import AttentionCore, Passes

__all__ = ["HASHES", "HASH_COORDINATES", "AttentionCore", "Averaging", "Dispatch", "Passes", "attention_core_flops"]
