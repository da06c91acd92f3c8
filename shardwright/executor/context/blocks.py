"""Attention of some queries to one block of keys: its output, the logarithms of its sums, and the gradients through it.

torch's fused kernels run it where there are any: on CPUs, and on GPUs in 16 bits. torch's own context parallelism calls the same ones
(torch 2.11 to 2.13, distributed/tensor/experimental/_context_parallel). Elsewhere, and where queries and keys of different documents
meet, plain matmuls do, with the scores of a block in memory.

With scores S = Q K^T / sqrt(d) the logarithms are L = log sum exp S. The gradients through one block need the output O and the logarithms
of all blocks together (Dao et al. 2022, arXiv 2205.14135, appendix B.2): with P = exp(S - L) and D = rowsum(dO * O), dV = P^T dO,
dS = P * (dO V^T - D), dQ = dS K, dK = dS^T Q.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

_aten: Any = torch.ops.aten


class Seen(NamedTuple):
    """Which keys of a block a query sees. `diagonal`: how many keys precede the first query's own, and so on along the diagonal; None:
    all are seen. `apart`: which of them are of different documents, (batch, 1, 1, queries, keys); None: none."""

    diagonal: int | None
    apart: Tensor | None = None


class Queries(NamedTuple):
    """Queries (batch, heads, tokens, head size), the gradient of their output, that output, and the logarithms of all their sums."""

    query: Tensor
    gradient: Tensor
    output: Tensor
    logs: Tensor


_LARGEST_HEAD, _HEAD_MULTIPLE = 256, 8
"""Of FlashAttention-2's kernels in torch (2.13, aten/src/ATen/native/transformers/cuda/sdp_utils.cpp)."""


def has_kernel(query: Tensor, documents: Tensor | None) -> bool:
    """Return whether a fused kernel runs attention of these queries."""
    if documents is not None:
        return False
    size = query.shape[-1]
    fits = size <= _LARGEST_HEAD and not size % _HEAD_MULTIPLE and query.dtype in (torch.bfloat16, torch.float16)
    return query.device.type == "cpu" or fits


def attend(query: Tensor, key: Tensor, value: Tensor, seen: Seen, scale: float) -> tuple[Tensor, Tensor]:
    """Return the output (batch, heads, tokens, size of values) and the logarithms in fp32, (batch, heads, tokens).

    Keys and values are (batch, KV heads, keys, head size). A query that sees no key has the logarithm of 0.
    """
    if has_kernel(query, seen.apart):
        output, logs, *_ = _forward(query, *_repeated(query, key, value), seen, scale)
        return output[..., : value.shape[-1]], logs
    scores = _scores(query, key, seen, scale)
    logs = scores.logsumexp(-1)
    largest = logs if seen.apart is None else logs.clamp_min(torch.finfo(logs.dtype).min)
    output = torch.exp(scores - largest[..., None]).to(value.dtype) @ value.unsqueeze(2)
    return output.flatten(1, 2), logs.flatten(1, 2)


def block_gradients(
    own: Queries, key: Tensor, value: Tensor, seen: Seen, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values through one block, in the shapes of the three."""
    if has_kernel(own.query, seen.apart):
        return _fused_gradients(own, key, value, seen, scale)
    scores = _scores(own.query, key, seen, scale)
    key, value = key.float(), value.float()
    query, gradient, output, logs = (_grouped(tensor, key.shape[1]).float() for tensor in own)
    weights = torch.exp(scores - logs[..., None])
    of_values = (weights.transpose(-1, -2) @ gradient).sum(2)
    products = (gradient * output).sum(-1, keepdim=True)
    of_scores = weights * (gradient @ value.unsqueeze(2).transpose(-1, -2) - products) * scale
    of_queries = (of_scores @ key.unsqueeze(2)).flatten(1, 2)
    return of_queries, (of_scores.transpose(-1, -2) @ query).sum(2), of_values


def _grouped(tensor: Tensor, kv_heads: int) -> Tensor:
    """Return (batch, heads, ...) as (batch, KV heads, heads that share one, ...)."""
    return tensor.reshape(tensor.shape[0], kv_heads, -1, *tensor.shape[2:])


def _scores(query: Tensor, key: Tensor, seen: Seen, scale: float) -> Tensor:
    """Return the scores in fp32 by KV head and group: (batch, KV heads, group, queries, keys)."""
    scores: Tensor = (_grouped(query, key.shape[1]) @ key.unsqueeze(2).transpose(-1, -2)).float() * scale
    if seen.diagonal is not None:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(seen.diagonal + 1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores if seen.apart is None else scores.masked_fill(seen.apart, -torch.inf)


def _repeated(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys and values as the kernels take them: a head for each of the queries', values as wide as queries."""
    repeats = query.shape[1] // key.shape[1]
    value = nn.functional.pad(value, (0, query.shape[-1] - value.shape[-1]))
    if repeats == 1:
        return key, value
    return key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)


def _forward(query: Tensor, key: Tensor, value: Tensor, seen: Seen, scale: float) -> tuple[Any, ...]:
    """Return output and logarithms, and what else the kernel of a GPU wants to have back."""
    causal = seen.diagonal is not None
    if query.device.type == "cpu":
        found: tuple[Any, ...] = _aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, scale=scale
        )
        return found
    found = _aten._scaled_dot_product_flash_attention(query, key, value, 0.0, causal, scale=scale)
    return found


def _fused_gradients(
    own: Queries, key: Tensor, value: Tensor, seen: Seen, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    causal, width = seen.diagonal is not None, own.query.shape[-1]
    keys, values = _repeated(own.query, key, value)
    output, gradient = (
        nn.functional.pad(tensor, (0, width - value.shape[-1])) for tensor in (own.output, own.gradient)
    )
    given = (gradient, own.query, keys, values, output, own.logs)
    if own.query.device.type == "cpu":
        found = _aten._scaled_dot_product_flash_attention_for_cpu_backward(*given, 0.0, causal, scale=scale)
    else:  # no lengths of several sequences, and no random numbers without dropout
        sizes, no_state = (own.query.shape[2], key.shape[2]), own.query.new_empty(2, dtype=torch.uint64)
        found = _aten._scaled_dot_product_flash_attention_backward(
            *given, None, None, *sizes, 0.0, causal, no_state, no_state[0], scale=scale
        )
    of_queries, of_keys, of_values = found
    kv_heads = key.shape[1]
    of_values = _grouped(of_values[..., : value.shape[-1]], kv_heads).float().sum(2)
    return of_queries, _grouped(of_keys, kv_heads).float().sum(2), of_values
