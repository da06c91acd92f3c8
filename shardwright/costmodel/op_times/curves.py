"""The physical curves that are fitted to measured points: seconds of an operation by its sizes.

Each is seconds = start + work / rate, with a rate that small sizes do not reach. The residuals of a curve are
interpolated (fitting.py). Far from all points only the physics decides.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from shardwright.base import Array, Number

Parameters = Mapping[str, float]


@dataclass(frozen=True)
class Form:
    """One physical curve.

    `sizes`: a function of the axes of a series, in order, that returns the sizes of the curve.
    `seconds(parameters, *sizes)` broadcasts. `starts`: for each parameter a first guess, and the factor within which a
    fit may change it either way. `weights`: weight of the distance along each size where residuals are interpolated;
    one weight serves all sizes where there is only one.
    """

    name: str
    sizes: Callable[..., tuple[Number, ...]]
    seconds: Callable[..., Array]
    starts: Mapping[str, tuple[float, float]]
    weights: tuple[float, ...] = (1.0,)


def _reached(size: Number, half: float) -> Array:
    """Share of a rate that is reached at `size`; one half at `half`."""
    return np.asarray(size / (np.asarray(size, dtype=float) + half))


def _matmul_seconds(p: Parameters, m: Number, k: Number, n: Number, groups: Number = 1.0) -> Array:
    """Roofline with a smooth maximum of both bounds. Each size must be large enough to reach the rate."""
    m, k, n = (np.asarray(size, dtype=float) for size in (m, k, n))
    reached = _reached(m, p["m_half"]) * _reached(k, p["k_half"]) * _reached(n, p["n_half"])
    computing = 2 * m * k * n * groups / (p["flops_per_s"] * reached)
    moving = groups * (m * k + k * n + m * n) / p["elements_per_s"]
    return np.asarray(p["start_seconds"] + (computing**4 + moving**4) ** 0.25)


def _attention_seconds(p: Parameters, heads: Number, length: Number, head_size: Number) -> Array:
    """FLOPs of a causal forward pass, 4 a s (s + 1)/2 d for a heads, over a rate that length and head size limit."""
    length = np.asarray(length, dtype=float)
    flops = attention_flops(heads, length, head_size)
    reached = _reached(length, p["length_half"]) * _reached(head_size, p["head_half"])
    return np.asarray(p["start_seconds"] + flops / (p["flops_per_s"] * reached))


def attention_flops(heads: Number, length: Number, head_size: Number) -> Array:
    """Forward FLOPs of scores and weighted values; only the causal half
    counts; `heads` is the sum over all sequences."""
    return np.asarray(2.0 * np.asarray(heads) * length * (np.asarray(length, dtype=float) + 1) * head_size)


def _elementwise_seconds(p: Parameters, elements: Number) -> Array:
    """Tensors that fit the caches are `cache_gain` times as fast as those that do not."""
    elements = np.asarray(elements, dtype=float)
    outside = elements**2 / (elements**2 + p["cached_elements"] ** 2)
    slowness = (1 - outside) / p["cache_gain"] + outside
    return np.asarray(p["start_seconds"] + elements * slowness / p["elements_per_s"])


def _update_seconds(p: Parameters, elements: Number, tensors: Number) -> Array:
    """The same over a list of tensors. Each tensor has a start time."""
    return np.asarray(p["tensor_seconds"] * np.asarray(tensors, dtype=float) + _elementwise_seconds(p, elements))


def _threaded_update_seconds(p: Parameters, elements: Number, threads: Number) -> Array:
    """The same on a host. `threads` share its memory; half of its rate is reached at `threads_half` threads."""
    start = p["start_seconds"]
    return np.asarray(start + (_elementwise_seconds(p, elements) - start) / _reached(threads, p["threads_half"]))


def _transfer_seconds(p: Parameters, size_bytes: Number) -> Array:
    return np.asarray(p["start_seconds"] + np.asarray(size_bytes, dtype=float) / p["bytes_per_s"])


def _ring_seconds(p: Parameters, size_bytes: Number, ranks_per_node: Number, nodes: Number, sharing: Number) -> Array:
    """A ring over all ranks (Thakur et al. 2005). Each step waits for a neighbour; the bytes pass the slowest link."""
    crosses, ranks = np.asarray(nodes) > 1, np.asarray(ranks_per_node, dtype=float) * nodes
    rate = np.where(crosses, p["across_bytes_per_s"] / np.asarray(sharing, dtype=float), p["within_bytes_per_s"])
    steps = (ranks - 1) * np.where(crosses, p["across_step_seconds"], p["within_step_seconds"])
    return np.asarray(p["start_seconds"] + steps + (ranks - 1) / ranks * np.asarray(size_bytes, dtype=float) / rate)


def _as_they_are(*at: Number) -> tuple[Number, ...]:
    return at


_START = (1e-5, 1e3)
_MATMUL_STARTS = {
    "start_seconds": _START,
    "flops_per_s": (1e12, 1e5),
    "elements_per_s": (1e10, 1e4),
    "m_half": (16.0, 64.0),
    "k_half": (16.0, 64.0),
    "n_half": (16.0, 64.0),
}
MATMUL = Form("matmul", _as_they_are, _matmul_seconds, _MATMUL_STARTS)
ATTENTION = Form(
    "attention",
    lambda batch, heads, kv_heads, length, head_size: (np.asarray(batch) * heads, length, head_size),
    _attention_seconds,
    {"start_seconds": _START, "flops_per_s": (1e12, 1e5), "length_half": (64.0, 64.0), "head_half": (16.0, 64.0)},
    weights=(0.3, 1.0, 1.0),  # more heads only fill the device better
)
_ELEMENT_STARTS = {
    "start_seconds": _START,
    "elements_per_s": (1e10, 1e4),
    "cache_gain": (2.0, 3.0),
    "cached_elements": (1e6, 16.0),
}
ROWS = Form("rows", lambda rows, width: (np.asarray(rows) * width,), _elementwise_seconds, _ELEMENT_STARTS)
# a table's gradient is filled with zeros, and the tokens' gradients are added to it
TABLE = Form(
    "table",
    lambda rows, width, tokens: ((np.asarray(rows) + tokens) * width,),
    _elementwise_seconds,
    _ELEMENT_STARTS,
)
UPDATE = Form("update", _as_they_are, _update_seconds, {**_ELEMENT_STARTS, "tensor_seconds": (1e-6, 1e3)})
THREADED_UPDATE = Form(
    "threaded-update", _as_they_are, _threaded_update_seconds, {**_ELEMENT_STARTS, "threads_half": (4.0, 16.0)}
)
TRANSFER = Form("transfer", _as_they_are, _transfer_seconds, {"start_seconds": _START, "bytes_per_s": (1e10, 1e5)})
RING = Form(
    "ring",
    _as_they_are,
    _ring_seconds,
    {
        "start_seconds": _START,
        "within_step_seconds": _START,
        "across_step_seconds": _START,
        "within_bytes_per_s": (1e10, 1e5),
        "across_bytes_per_s": (1e10, 1e5),
    },
)

_BY_AXES: Mapping[tuple[str, ...], Form] = {
    ("m", "k", "n"): MATMUL,
    ("m", "k", "n", "groups"): MATMUL,
    ("batch", "heads", "kv_heads", "length", "head_size"): ATTENTION,
    ("rows", "width"): ROWS,
    ("rows", "width", "tokens"): TABLE,
    ("elements", "tensors"): UPDATE,
    ("elements", "threads"): THREADED_UPDATE,
    ("size_bytes",): TRANSFER,
    ("size_bytes", "ranks_per_node", "nodes", "sharing"): RING,
}


def form_of(axes: tuple[str, ...]) -> Form | None:
    """Return the physical curve over these axes, None where none is known."""
    return _BY_AXES.get(axes)
