"""FLOPs of single operators: those of torch's own counter, and the ones that it leaves out, attention on a CPU and grouped matmuls.

Attention counts what a causal kernel computes, as the cost model does: only the keys that a query sees. With a mask it counts
every score, as a kernel with a mask computes them all.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry


def operator_flops(func: Any, args: tuple[Any, ...], options: Mapping[str, Any], output: Any) -> int:
    """Return the FLOPs of one call; 0 for operators that are no matmul and no attention."""
    packet = func.overloadpacket
    if packet in _OWN:
        return _OWN[packet](args, options)
    counted = flop_registry.get(packet)
    return 0 if counted is None else int(counted(*args, **options, out_val=output))


def seen_pairs(queries: int, keys: int) -> int:
    """Return the pairs of a query and a key that it sees, where the last query sees all keys and each before it one less."""
    return queries * (keys - queries) + queries * (queries + 1) // 2


def _forward(args: tuple[Any, ...], options: Mapping[str, Any]) -> int:
    """Arguments: query, key, value, dropout, causal."""
    return _forward_flops(args[:3], args[4:5], options)


def _efficient_forward(args: tuple[Any, ...], options: Mapping[str, Any]) -> int:
    """Arguments: query, key, value, bias, whether sums are wanted, dropout, causal."""
    return _forward_flops(args[:3], args[6:7], options)


def _forward_flops(given: tuple[Tensor, ...], causal: tuple[Any, ...], options: Mapping[str, Any]) -> int:
    """Scores and weighted values, of queries, keys and values."""
    query, key, value = given
    sizes: int = query.shape[-1] + value.shape[-1]
    return _of_heads(query) * _pairs(query, key, causal, options) * sizes


def _backward(args: tuple[Any, ...], options: Mapping[str, Any]) -> int:
    """Arguments: gradient, query, key, value, output, sums, dropout, causal."""
    return _backward_flops(args[1:4], args[7:8], options)


def _efficient_backward(args: tuple[Any, ...], options: Mapping[str, Any]) -> int:
    """Arguments: gradient, query, key, value, bias, output, sums, two of random numbers, dropout, wanted gradients, causal."""
    return _backward_flops(args[1:4], args[11:12], options)


def _backward_flops(given: tuple[Tensor, ...], causal: tuple[Any, ...], options: Mapping[str, Any]) -> int:
    """Scores again, and the gradients of values, weights, queries and keys: five matmuls (Dao 2023, arXiv 2307.08691, section
    4.1)."""
    query, key, value = given
    sizes: int = 3 * query.shape[-1] + 2 * value.shape[-1]
    return _of_heads(query) * _pairs(query, key, causal, options) * sizes


def _of_heads(query: Tensor) -> int:
    return 2 * query.shape[0] * query.shape[1]


def _pairs(query: Tensor, key: Tensor, causal: tuple[Any, ...], options: Mapping[str, Any]) -> int:
    queries, keys = query.shape[-2], key.shape[-2]
    is_causal = causal[0] if causal else options.get("is_causal", False)
    return seen_pairs(queries, keys) if is_causal else queries * keys


def _grouped(args: tuple[Any, ...], options: Mapping[str, Any]) -> int:
    """(rows, k) by (groups, k, columns), rows divided over the groups; or (columns, rows) by (rows, k), likewise."""
    left, right = args[:2]
    return 2 * int(left.shape[-2]) * int(left.shape[-1]) * int(right.shape[-1])


_OWN: Mapping[Any, Callable[[tuple[Any, ...], Mapping[str, Any]], int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
    torch.ops.aten._scaled_dot_product_efficient_attention: _efficient_forward,
    torch.ops.aten._scaled_dot_product_efficient_attention_backward: _efficient_backward,
    torch.ops.aten._grouped_mm: _grouped,
}
