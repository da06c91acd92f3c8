"""The least memory that an entry of the space can do with, and the stages that do with it."""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.pipeline import peak_in_flight
from shardwright.planner.space import EntryCosts, LayerRanges
from shardwright.planner.stages import ends_of, row_largest, row_totals, smallest_largest


@dataclass(frozen=True)
class LeastMemory:
    """An entry's stages with the smallest largest share of device or host: `share` of 1 just fits.

    `device_share` and `host_share` are those of the stage where it is largest; `mix` is as in `Solved`.
    """

    share: float
    device_share: float
    host_share: float
    layers: tuple[int, ...]
    mix: IntArray


def least_memory(entry: EntryCosts, ranges: LayerRanges, allowed: list[int]) -> LeastMemory:
    """Of an entry with one stage on each rank.

    A limit on what the largest layer works in leaves each class the policies below it, of which the one that keeps least
    is best; so the least peak of a stage is a minimum over the few limits. The partition minimises the largest share.
    """
    ends, counts, rows = ends_of(entry.pp), ranges.counts, entry.rows
    kinds = counts.shape[1]
    device, policies = _least_device_bytes(entry, counts, ends, allowed)
    device_share = device / float(rows.room)
    host_share = row_totals(rows.host, counts, ends) / entry.host_room_bytes
    share, layers = smallest_largest(np.maximum(device_share, host_share), ranges)
    stage, kind = np.arange(entry.pp), ranges.kinds(np.array(layers))
    worst = int(np.argmax(np.maximum(device_share, host_share)[stage, kind]))
    mix = np.zeros((entry.pp, kinds, rows.working.shape[1]), dtype=np.int64)
    for place, chosen in enumerate(policies[stage, kind]):
        mix[place, np.arange(kinds), chosen] = counts[kind[place]]
    return LeastMemory(
        share, float(device_share[worst, kind[worst]]), float(host_share[worst, kind[worst]]), layers, mix
    )


def _least_device_bytes(entry: EntryCosts, counts: IntArray, ends: Array, allowed: list[int]) -> tuple[Array, IntArray]:
    """(S, V) bytes without context and communicators, and (S, V, K) the policy of each class that takes so few."""
    rows, kinds = entry.rows, counts.shape[1]
    alive = peak_in_flight(entry.schedule, entry.pp, 1, entry.microbatches).astype(float)[:, None]
    least = np.full((entry.pp, len(counts)), np.inf)
    policies = np.zeros((*least.shape, kinds), dtype=np.int64)
    end_kept, end_working = (ends @ rows.activation[kinds:, 0])[:, None], (ends * rows.working[kinds:, 0]).max(axis=1)
    for limit in np.unique(rows.working[:kinds][:, allowed]):
        usable = np.zeros(rows.working[:kinds].shape, dtype=bool)
        usable[:, allowed] = rows.working[:kinds][:, allowed] <= limit
        kept = np.where(usable, rows.activation[:kinds], np.inf)
        chosen, smallest = kept.argmin(axis=1), kept.min(axis=1)
        held = np.where(counts > 0, smallest * np.maximum(counts, 1), 0.0).sum(axis=1)
        moving = alive * (held + end_kept) + np.maximum(limit, end_working)[:, None]
        better = moving < least
        least, policies = np.where(better, moving, least), np.where(better[..., None], chosen, policies)
    moving = least + 2 * row_largest(rows.gather_window, counts, ends) + row_largest(rows.reduce_buffer, counts, ends)
    beside = np.maximum((1 + rows.slack) * moving, row_totals(rows.step, counts, ends))
    return row_totals(rows.static, counts, ends) + beside, policies
