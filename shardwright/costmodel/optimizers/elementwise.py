"""Bytes of the optimizers whose update of an element reads that element alone, so that any shard updates itself."""

from shardwright.costmodel.op_times import FOREACH_UPDATE_PASSES, UPDATE_PASSES
from shardwright.specs import Optimizer, Stack

EIGHT_BIT_BLOCK = 256
"""Elements that share a scale (Dettmers et al. 2022, arXiv 2110.02861, use 2048; torchao/optim/adam.py, block_size=256)."""
EIGHT_BIT_BYTES = 1 + 4 / EIGHT_BIT_BLOCK
"""Bytes of an element of a state in 8 bits with its share of the fp32 scale (torchao/optim/subclass_8bit.py)."""


_OTHER_PASSES = {"sgd-momentum": 8.0, "lion": 13.0}
"""Elements that an update by foreach kernels moves for a parameter (torch/optim/sgd.py; pytorch_optimizer/optimizer/lion.py, with its
decay), counted in tests/costmodel/optimizers."""


def state_bytes_per_element(optimizer: Optimizer, element_bytes: float) -> float:
    """Return bytes of state of one element where the method is elementwise, and of what a whole-matrix method leaves to AdamW.

    AdamW two states, Lion one (Chen et al. 2023, algorithm 2), SGD one with momentum. The states of 8-bit AdamW are in 8 bits where a
    shard has 4096 elements or more, as nearly all have.
    """
    if optimizer.name == "adamw8bit":
        return 2 * EIGHT_BIT_BYTES
    states = {"lion": 1, "sgd": 1 if optimizer.name == "sgd" and optimizer["momentum"] else 0}
    return states.get(optimizer.name, 2) * element_bytes


def moved_bytes_per_element(optimizer: Optimizer, element_bytes: float, stack: Stack) -> float:
    """Return bytes that the same update reads and writes of one element."""
    if optimizer.name == "adamw8bit":  # parameter read and written, gradient read, both states read and written
        return 3 * element_bytes + 4 * EIGHT_BIT_BYTES
    name = "sgd-momentum" if optimizer.name == "sgd" and optimizer["momentum"] else optimizer.name
    if name in _OTHER_PASSES:
        return _OTHER_PASSES[name] * element_bytes
    passes = FOREACH_UPDATE_PASSES if stack.foreach_update else UPDATE_PASSES
    return passes["sgd" if name == "sgd" else "adamw"] * element_bytes
