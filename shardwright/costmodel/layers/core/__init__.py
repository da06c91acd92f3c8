"""Parts of a layer's passes: the attention core (what it computes, how long it takes, in 8 bits, and within packed documents), the
dispatch of tokens to experts, also as means of several, and the launches of kernels."""

from .averaging import HASH_COORDINATES, HASHES, Averaging
from .dispatch import Dispatch
from .flops import attention_core_flops
from .launches import Launches
from .passes import AttentionCore, Passes

__all__ = [
    "HASHES",
    "HASH_COORDINATES",
    "AttentionCore",
    "Averaging",
    "Dispatch",
    "Launches",
    "Passes",
    "attention_core_flops",
]
