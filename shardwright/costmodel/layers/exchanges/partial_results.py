"""Merging: a rank attends to one block of keys after the other, so that its output and its gradients are sums over blocks.

The memory traffic of these sums is that of the rank with most of it, because the ranks of a ring wait for each other. The
last rank needs all of its queries for every other block, the first rank only the second half of them, and then all keys of
that block (the zig-zag of context.py). The sums of a causal pass, with symbols bound once: O, Q, K elements of the rank's
outputs, queries, and keys and values; e bytes of an element; a = 4 bytes of one in fp32; c = cp blocks.

"fused" (Transformer Engine, attention/dot_product_attention/context_parallel.py). Keys and values are copied into one
buffer, 2 e K in each pass. Forward: the first block's output is scaled, 2 e O, and each other one is added to the sum by
one kernel, 3 e O (`flash_attn_fwd_out_correction`). Backward: gradients are copied for the first block and added for others.

"fp32" (torch 2.13, torch/distributed/tensor/experimental/_context_parallel/_attention.py). Sums are in fp32. Eager PyTorch
runs `_SDPAMerger` as a chain: a cast, and o - sigmoid(s - s') (o - o') with 8 reads and writes of fp32. Half of a tensor is
updated by a copy of the whole (`_partial_update`), and gradients of keys and values are joined for each send; the first time
they are copied twice, as their layout is that of the projection. A compiler fuses each chain into one kernel. The log-sum-exps are left out: a number a head beside its columns.
"""

from typing import NamedTuple

import numpy as np

from shardwright.base import Array
from shardwright.specs import BYTES_PER_ELEMENT, Stack

_SUM = BYTES_PER_ELEMENT["fp32"]


class LocalElements(NamedTuple):
    """Elements of a rank's own tokens and heads, (N,) each; `keys_values` counts both."""

    outputs: Array
    queries: Array
    keys_values: Array


class PassBytes(NamedTuple):
    """Memory traffic of one layer's forward and of its backward, (N,) each."""

    forward: Array
    backward: Array


def merging_bytes(stack: Stack, elements: LocalElements, element_bytes: int, blocks: Array) -> PassBytes:
    """Return the memory traffic of sums over `blocks` (N,) blocks of keys, 2 or more."""
    if stack.merges_partial_results == "fused":
        return _fused(elements, element_bytes, blocks)
    return (_compiled if stack.fused_elementwise else _eager)(elements, element_bytes, blocks)


def gradient_bytes_per_element(stack: Stack, element_bytes: int) -> int:
    """Return the bytes of an element of the gradients of keys and values that travel from rank to rank."""
    return element_bytes if stack.merges_partial_results == "fused" else _SUM


def _fused(elements: LocalElements, e: int, c: Array) -> PassBytes:
    outputs, queries, keys = elements
    most = _most(3, 1.5, queries, keys)
    forward = 2 * keys + 2 * outputs + (c - 1) * 3 * outputs
    backward = 2 * keys + _most(2, 1, queries, keys) + (c - 2) * most + 3 * (queries + keys)
    return PassBytes(e * forward, e * backward)


def _eager(elements: LocalElements, e: int, c: Array) -> PassBytes:
    outputs, queries, keys = elements
    cast = e + _SUM if e < _SUM else 0
    copied = 2 * e * keys + (c - 1) * 2 * e * keys
    added, written = e + 2 * _SUM, 2 * _SUM  # sums read and written, and written anew
    forward = copied + 2 * cast * outputs + (c - 1) * (cast + 8 * _SUM) * outputs
    own = (_SUM + added) * (queries + keys) + 2 * written * keys
    full = added * queries + (added / 2 + 2 * written) * keys
    half = (added / 2 + written) * queries + (added + written) * keys
    backward = copied + own + (c - 1) * np.maximum(full, half) + cast * (queries + keys)
    return PassBytes(np.asarray(forward), np.asarray(backward))


def _compiled(elements: LocalElements, e: int, c: Array) -> PassBytes:
    """The first block's result is read when the second is added, and the last kernel writes the sum in the compute format."""
    outputs, queries, keys = elements
    joined = (c - 1) * 2 * e * keys
    forward = joined + ((c + 1) * e + (c - 2) * 2 * _SUM) * outputs
    middle = _most(e + 2 * _SUM, e / 2 + 2 * _SUM, queries, keys)
    ends = 3 * e * queries + 2 * (e + _SUM) * keys + (e + 2 * _SUM) * keys
    return PassBytes(np.asarray(forward), np.asarray(joined + ends + (c - 2) * middle))


def _most(whole: float, half: float, queries: Array, keys: Array) -> Array:
    """Bytes of the rank with most, for an element of what a block changes whole and of what it changes half."""
    return np.maximum(whole * queries + half * keys, half * queries + whole * keys)
