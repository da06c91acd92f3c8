"""Lower bounds on the steps of an arrangement's entries, without cost tables of data parallelism.

Symbols: M microbatches; P ranks, of which group g has n_g; c_gk seconds of forward and cheapest backward of a layer or end k
there; L layers. Rank r has x_r seconds of a microbatch. The first microbatch passes every rank, and rank r works on the others
in the meantime, but for w = min(M - 1, P - 1) forwards or backwards under 1F1B, the longer of which takes x_r / 2 or more:

    step >= sum_r x_r + (M - 1 - w / 2) max_r x_r        sum_r x_r >= sum_k min_g c_gk

max_r x_r is at least the smallest T with sum_g n_g floor(T / min_k c_gk) >= L, because rank r holds whole layers, and at
least W / sum_g (n_g / s_g), where W is the work of the model in the first group and s_g = min_k c_gk / c_1k.
"""

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.tables import Rows
from shardwright.planner.space import layer_ranges

from .arrangement import Arrangement

_COUNTS = 8  # of whole layers on a rank above the fewest that are tried


def step_bounds(arrangement: Arrangement, allowed: list[int]) -> Array:
    """(N,): seconds that every plan of an entry takes at least; infinite where its ranks cannot hold the model's bytes."""
    space, costs = arrangement.space, arrangement.costs
    layers = layer_ranges(arrangement.model).whole
    least = [each.rows.least for each in costs]
    rows = [
        Rows.of(
            np.asarray(one.forward)
            + np.where(_ends_first(one.backward), one.backward[..., 0], _cheapest(one.backward, allowed))
        )
        for one in least
    ]
    ranks = np.stack([group.devices for group in arrangement.cluster.groups])[:, None] // (
        space.base.ranks // space.base.pp
    )
    slowest = np.maximum(_by_work(rows, ranks, layers), _by_whole_layers(rows, ranks, int(layers.sum())))
    once = _least(rows).of_model(layers)
    more, pp = space.base.microbatches - 1, space.base.pp
    seconds = once + (more - np.minimum(more, pp - 1) / 2) * slowest
    room = np.sum([count * each.room_bytes for count, each in zip(ranks, costs, strict=True)], axis=0)
    kept = np.min([Rows.of(one.stays).of_model(layers) for one in least], axis=0)
    found: Array = np.where(kept <= room, seconds, np.inf)[space.base_index]
    return found


def _ends_first(backward: Array) -> Array:
    """(R,): the embedding and the head, which have one policy, the first."""
    rows = backward.shape[1]
    return np.asarray(np.arange(rows) >= rows - 2)


def _cheapest(backward: Array, allowed: list[int]) -> Array:
    """(N, R): the shortest backward of each row; where strategies do not matter it has one column."""
    return np.asarray(backward[..., allowed].min(axis=-1) if backward.shape[-1] > 1 else backward[..., 0])


def _least(rows: list[Rows]) -> Rows:
    return Rows(*(np.min([getattr(each, name) for each in rows], axis=0) for name in ("layers", "first", "last")))


def _by_work(rows: list[Rows], ranks: Array, layers: Array) -> Array:
    """(N,): seconds of the slowest rank if the work could be divided at will."""
    values = [np.concatenate([each.layers, each.ends], axis=-1) for each in rows]
    known = np.where(values[0] > 0, values[0], 1.0)
    slower = [np.where(values[0] > 0, each / known, np.inf).min(axis=-1) for each in values]
    shares = sum(count / np.maximum(slow, 1e-300) for count, slow in zip(ranks, slower, strict=True))
    return np.asarray(rows[0].of_model(layers) / np.asarray(shares))


def _by_whole_layers(rows: list[Rows], ranks: Array, layer_count: int) -> Array:
    """(N,): seconds of the slowest rank if all layers were the shortest of their group, and no rank had an end."""
    each = np.stack([one.layers.min(axis=-1) for one in rows])  # (G, N)
    even = layer_count / (ranks / each).sum(axis=0)
    fewest = np.floor(even / each)
    tried = np.concatenate([(fewest + step) * each for step in range(_COUNTS)])  # (G x counts, N)
    held = (ranks * np.floor(tried[:, None] / each * (1 + 1e-12))).sum(axis=1)
    least_tried = (fewest + _COUNTS - 1) * each
    found = np.where(held >= layer_count, tried, np.inf).min(axis=0)
    return np.asarray(np.maximum(even, np.minimum(found, least_tried.min(axis=0))))
