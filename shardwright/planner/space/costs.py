"""Row costs and memory limits of every entry of the space, in the few arrays that the search works on."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from shardwright.base import Array, IntArray
from shardwright.costmodel.op_times import Crossing, OpTimes, ReplicaExchange
from shardwright.costmodel.tables import (
    LeastCosts,
    RowCosts,
    build_least,
    build_tables,
    ends_of,
    fixed_bytes,
    host_share_bytes,
    nvme_share_bytes,
    receive_buffer_bytes,
    usable_bytes,
)
from shardwright.specs import Candidates, ScheduleName, TrainingSpec, VocabularyParallel
from shardwright.specs.model import ModelSpec

from .space import Space

# A plan that fills the device to the last byte must still fit when its parts are added in another order.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class EntryCosts:
    """One entry of the space: the shape of its schedule, its row costs, and the device and host bytes for them."""

    schedule: ScheduleName
    pp: int
    stages_per_rank: int
    microbatches: int
    rows: RowCosts
    room_bytes: float
    host_room_bytes: float
    nvme_room_bytes: float = 0.0
    even_stages: bool = False
    vocabulary: VocabularyParallel = "none"
    send_seconds: Array | None = None

    @property
    def sends(self) -> Array:
        """(S - 1,): seconds of the message behind each stage: `send_seconds` where they differ."""
        return np.full(self.stages - 1, float(self.rows.send)) if self.send_seconds is None else self.send_seconds

    @property
    def stages(self) -> int:
        return self.pp * self.stages_per_rank

    @property
    def ends(self) -> Array:
        """(S, 2): the shares of the embedding and of the head that a stage holds."""
        return ends_of(self.stages, spread=self.vocabulary != "none")


class PricedRows:
    """The row costs of base candidates, indexed as an array of them. Each is priced when it is first asked for.

    In a large space most entries are ruled out by what their rows cost at the least.
    """

    def __init__(
        self,
        model: ModelSpec,
        training: TrainingSpec,
        space: Space,
        times: OpTimes,
        ends: Crossing | None = None,
        exchange: ReplicaExchange | None = None,
    ) -> None:
        self._model, self._training, self._base, self._times = model, training, space.base, times
        self._strategies, self._ends, self._exchange = space.strategies, ends, exchange
        self._priced = np.zeros(len(space.base), dtype=bool)
        self._rows: RowCosts | None = None

    def __getitem__(self, bases: int | IntArray | slice) -> RowCosts:
        asked = np.arange(len(self._base))[bases]
        new = np.unique(asked[~self._priced[asked]])
        if self._rows is None and len(new) == len(self._base):
            self._rows = self._price(self._base)
        elif len(new):
            found = self._price(self._base[new])
            self._rows = found.room_for(len(self._base)) if self._rows is None else self._rows
            self._rows.put(new, found)
        self._priced[new] = True
        assert self._rows is not None
        return self._rows[bases]

    @cached_property
    def least(self) -> LeastCosts:
        """What the rows of every base candidate cost at the least."""
        return build_least(self._model, self._training, self._base, self._times, strategies=self._strategies)

    def _price(self, base: Candidates) -> RowCosts:
        return RowCosts.of(
            build_tables(
                self._model,
                self._training,
                base,
                self._times,
                strategies=self._strategies,
                ends=self._ends,
                exchange=self._exchange,
            )
        )


@dataclass(frozen=True)
class SpaceCosts:
    """A space with its costs. `rows` and `room_bytes` (device bytes for all rows) have one item per base candidate."""

    space: Space
    rows: PricedRows
    room_bytes: Array
    host_room_bytes: float
    nvme_room_bytes: float = 0.0

    def entry(self, entry: int) -> EntryCosts:
        space = self.space
        base = int(space.base_index[entry])
        return EntryCosts(
            schedule=space.schedule_name(entry),
            pp=int(space.base.pp[base]),
            stages_per_rank=int(space.stages_per_rank[entry]),
            microbatches=int(space.base.microbatches[base]),
            rows=self.rows[base],
            room_bytes=float(self.room_bytes[base]),
            host_room_bytes=self.host_room_bytes,
            nvme_room_bytes=self.nvme_room_bytes,
            even_stages=space.even_stages,
            vocabulary=space.vocabulary_name(entry),
        )


def space_costs(
    space: Space,
    model: ModelSpec,
    training: TrainingSpec,
    times: OpTimes,
    ends: Crossing | None = None,
    exchange: ReplicaExchange | None = None,
) -> SpaceCosts:
    """Return the costs of the whole space; its cost tables are built where they are asked for. `ends` and `exchange` are as in `build_tables`."""
    rows = PricedRows(model, training, space, times, ends, exchange)
    usable = usable_bytes(times.node.device, times.constants)
    room = usable - fixed_bytes(space.base, times.node, times.constants, training.software)
    room = room - receive_buffer_bytes(model, training, space.base)
    host, nvme = host_share_bytes(times.node), nvme_share_bytes(times.node)
    return SpaceCosts(space, rows, room * (1 - _ROUNDING), host * (1 - _ROUNDING), nvme * (1 - _ROUNDING))
