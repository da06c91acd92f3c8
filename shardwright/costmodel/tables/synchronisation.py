"""What replicas exchange where they do not reduce every gradient in full (`Sync`): its seconds, and the memory of its state.

Symbols: n elements of a row's shard on a rank, M replicas, q bits, H inner steps, F fragments, D steps of delay.

- A message of q bits goes in two phases, as in 1-bit Adam (arXiv 2102.02888, section 4.3, compressed all-reduce): every rank sends each of the M
  ranks the M-th part of its numbers (all-to-all), adds up what it gets in fp32, and sends the mean, in q bits again, to all
  (all-gather). Each phase moves `sent_bytes`, about n q / 8.
- Compressed gradients and momentum are exchanged once a step, after the backward pass, and nothing hides them.
- Outer gradients are exchanged once in H steps. Without bits that is an all-reduce of n parameters in their own format. Over H steps
  each fragment has D steps in which its exchange runs beside compute. With T seconds of exchanges of the whole model and C seconds
  of compute in a step, exposed = max(0, T - min(F D, H) C), and a step has the H-th part (arXiv 2401.16265 and 2501.18512: nothing is
  exposed while the delay is long enough). C is what an average pipeline rank computes, without recompute.
- Memory of fp32 numbers: error feedback keeps n on the rank that sends and n / M on the one that adds up. Local steps keep the common
  base and the outer momentum, 2 n, and with a delay the difference of one fragment, n / F. All lie on the device.
"""

from dataclasses import dataclass

import numpy as np

from shardwright.base import Array
from shardwright.costmodel.op_times import OpTimes, ReplicaExchange, exposed_beside
from shardwright.specs import (
    BYTES_PER_ELEMENT,
    Candidates,
    NodeGroup,
    RankGroup,
    TrainingSpec,
    expert_replicate_group,
    replicate_group,
    sent_bytes,
)

from .data_parallel import RanksOf

_NUMBER = BYTES_PER_ELEMENT["fp32"]
_ENCODING_MOVES = 4
"""fp32 numbers read and written for each element of a compressed exchange: value and error in, the mean and the error out."""
_OUTER_MOVES = 6
"""The same of an outer update: weights, base and momentum, in and out."""


@dataclass(frozen=True)
class Synchronisation:
    """The exchanges of rows with so many elements of a shard on a rank, `shards` and `expert_shards` (N, R).

    `layers` (R,): rows of each kind in the model. `compute_seconds` (N, R): forward and cheapest backward of one microbatch. `whole` (N, R): those of
    `shards` that every tp rank holds, whose numbers have parts and scales of their own, so that these ranks stay equal.
    """

    training: TrainingSpec
    times: OpTimes
    candidates: Candidates
    shards: Array
    expert_shards: Array
    layers: Array
    compute_seconds: Array
    whole: Array
    exchange: ReplicaExchange | None = None

    @property
    def is_needed(self) -> bool:
        return bool(self.candidates.approximates.any())

    @property
    def seconds(self) -> Array:
        """(N, R): seconds that a step takes for exchanges and what surrounds them, on average."""
        if not self.is_needed:
            return np.zeros_like(self.shards)
        apart = np.where(self._column("tp") > 1, self.whole, 0.0)
        whole = self._over([self.shards - apart, apart], replicate_group)
        if self.expert_shards.any():
            whole = whole + self._over([self.expert_shards], expert_replicate_group)
        elements = self.shards + self.expert_shards
        moves = np.where(self._column("sync_outer") > 0, _OUTER_MOVES, _ENCODING_MOVES)
        kernels = np.where(elements > 0, self.times.memory_bound_seconds(_NUMBER * moves * elements), 0.0)
        found = (self._exposed_share(whole)[:, None] * whole + kernels) / self._column("sync_inner_steps")
        return np.asarray(np.where(self.candidates.approximates[:, None], found, 0.0))

    @property
    def state_bytes(self) -> Array:
        """(N, R): bytes that a rank holds beside parameters and optimizer state."""
        chosen = self.candidates
        late = np.where(chosen.sync_delay > 0, 1 / chosen.sync_fragments, 0.0)
        local = np.where(np.isinf(chosen.sync_inner_steps), 0.0, 2 + late)
        compressed = np.where(chosen.sync_bits > 0, 1 + 1 / chosen.dp_replicate, 0.0)
        copies = np.where(chosen.sync_outer > 0, local, compressed)
        return np.asarray(_NUMBER * copies[:, None] * (self.shards + self.expert_shards))

    def _over(self, sections: list[Array], ranks_of: RanksOf) -> Array:
        """(N, R): seconds of one exchange of each row, as if nothing ran beside it. `sections` of a message have parts of their own."""
        bits, ranks, elements = self._column("sync_bits"), self._column("dp_replicate"), sum(sections, np.zeros(1))
        few = sum((sent_bytes(section, bits, ranks) for section in sections), np.zeros(1))
        full = self.training.precision.parameter_bytes_per_element * elements
        return np.asarray(
            np.where(
                elements > 0, np.where(bits > 0, self._compressed(few, ranks_of), self._in_full(full, ranks_of)), 0.0
            )
        )

    def _in_full(self, size_bytes: Array, ranks_of: RanksOf) -> Array:
        if self.exchange is not None:
            return self.exchange.all_reduce_seconds(size_bytes, self.candidates, ranks_of)
        return self.times.collective_seconds("all_reduce", size_bytes, self._group(ranks_of))

    def _compressed(self, size_bytes: Array, ranks_of: RanksOf) -> Array:
        """Both phases. Between groups of a mixed cluster they count as one all-reduce, which moves as much."""
        if self.exchange is not None:
            return self.exchange.all_reduce_seconds(size_bytes, self.candidates, ranks_of)
        group = self._group(ranks_of)
        parts = self.times.collective_seconds("all_to_all", size_bytes, group)
        return np.asarray(parts + self.times.collective_seconds("all_gather", size_bytes, group))

    def _group(self, ranks_of: RanksOf) -> RankGroup:
        node: NodeGroup = self.times.node
        return ranks_of(self.candidates, node).column()

    def _exposed_share(self, whole: Array) -> Array:
        """(N,): the part of an exchange that does not run beside inner steps, with what it slows them by."""
        chosen = self.candidates
        exchanged = whole @ self.layers / chosen.pp
        steps = np.minimum(
            chosen.sync_fragments * chosen.sync_delay,
            np.where(np.isinf(chosen.sync_inner_steps), 0, chosen.sync_inner_steps),
        )
        beside = steps * chosen.microbatches * (self.compute_seconds @ self.layers) / chosen.pp
        exposed = exposed_beside(self.times.node.device, self.times.constants, beside, exchanged).network
        return np.asarray(np.divide(exposed, exchanged, out=np.ones_like(exposed), where=exchanged > 0))

    def _column(self, name: str) -> Array:
        return np.asarray(getattr(self.candidates, name))[:, None]
