"""Parts of a layer's passes: the attention core (what it computes, how long it takes, in 8 bits, and within packed documents), the
dispatch of tokens to experts, also as means of several, and the launches of kernels. Beside them the weights that a rank holds."""

from .averaging import HASH_COORDINATES, HASHES, Averaging
from .dispatch import Dispatch
from .flops import attention_core_flops
from .launches import Launches
from .passes import AttentionCore, Passes
from .weights import HeldWeights

__all__ = [
    "HASHES",
    "HASH_COORDINATES",
    "AttentionCore",
    "Averaging",
    "Dispatch",
    "HeldWeights",
    "Launches",
    "Passes",
    "attention_core_flops",
]
