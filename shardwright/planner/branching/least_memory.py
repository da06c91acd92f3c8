"""The least memory that an entry of the space needs, and the stages that need no more."""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.planner.space import EntryCosts, LayerRanges
from shardwright.planner.stages import allowed_ranges, smallest_largest, stage_room


@dataclass(frozen=True)
class LeastMemory:
    """An entry's stages whose largest share of device or host memory is smallest; a `share` of 1 just fits.

    `device_share` and `host_share` belong to the stage with the largest share; `mix` is as in `Solved`.
    """

    share: float
    device_share: float
    host_share: float
    layers: tuple[int, ...]
    mix: IntArray


def least_memory(entry: EntryCosts, ranges: LayerRanges, allowed: list[int]) -> LeastMemory:
    """Return the least memory of an entry with one stage on each rank.

    A limit on the working bytes of the largest layer rules out some policies of each class. Of the others the one that
    keeps least is best. The least peak of a stage is therefore a minimum over the few limits. The partition minimises
    the largest share.
    """
    counts, rows = ranges.counts, entry.rows
    kinds = counts.shape[1]
    device, policies = _least_device_bytes(entry, counts, allowed)
    device_share = device / entry.room_bytes
    host_share = rows.host.total(counts, entry.ends[:, None]) / entry.host_room_bytes
    largest = np.where(allowed_ranges(entry, ranges), np.maximum(device_share, host_share), np.inf)
    share, layers = smallest_largest(largest, ranges)
    stage, kind = np.arange(entry.pp), ranges.kinds(np.array(layers))
    worst = int(np.argmax(largest[stage, kind]))
    mix = np.zeros((entry.pp, kinds, rows.policies), dtype=np.int64)
    for place, chosen in enumerate(policies[stage, kind]):
        mix[place, np.arange(kinds), chosen] = counts[kind[place]]
    return LeastMemory(
        share, float(device_share[worst, kind[worst]]), float(host_share[worst, kind[worst]]), layers, mix
    )


def _least_device_bytes(entry: EntryCosts, counts: IntArray, allowed: list[int]) -> tuple[Array, IntArray]:
    """(S, V): least bytes without context and communicators; (S, V, K): the policy of each class that needs so few."""
    rows, ends = entry.rows, entry.ends
    kept_each, working_each = rows.activation.layers, rows.working.layers
    room = stage_room(entry, counts)
    least = np.full((entry.pp, len(counts)), np.inf)
    policies = np.zeros((*least.shape, rows.classes), dtype=np.int64)
    end_kept = (ends * rows.activation.ends).sum(axis=-1)[:, None]
    end_working = (ends * rows.working.ends).max(axis=-1)
    for limit in np.unique(working_each[:, allowed]):
        usable = np.zeros(working_each.shape, dtype=bool)
        usable[:, allowed] = working_each[:, allowed] <= limit
        kept = np.where(usable, kept_each, np.inf)
        chosen, smallest = kept.argmin(axis=1), kept.min(axis=1)
        held = np.where(counts > 0, smallest * np.maximum(counts, 1), 0.0).sum(axis=1)
        activations = room.kept_at_once(held + end_kept) + np.maximum(limit, end_working)[:, None]
        better = activations < least
        least, policies = np.where(better, activations, least), np.where(better[..., None], chosen, policies)
    return rows.held(counts, ends[:, None]).peak_bytes(least), policies
