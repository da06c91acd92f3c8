"""The attention core: what it computes, how long it takes, in 8 bits, and within packed documents."""

from .flops import attention_core_flops
from .passes import AttentionCore, Passes

__all__ = ["AttentionCore", "Passes", "attention_core_flops"]
