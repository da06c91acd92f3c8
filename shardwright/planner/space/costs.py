"""Row costs and memory limits of every entry of the space, in the few arrays that the search works on."""

from dataclasses import dataclass

from shardwright.base import Array
from shardwright.costmodel.op_times import OpTimes
from shardwright.costmodel.tables import RowCosts, build_tables, ends_of, fixed_bytes, host_share_bytes, usable_bytes
from shardwright.specs import ScheduleName, TrainingSpec, VocabularyParallel
from shardwright.specs.model import ModelSpec

from .enumerate import Space

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
    even_stages: bool = False
    vocabulary: VocabularyParallel = "none"

    @property
    def stages(self) -> int:
        return self.pp * self.stages_per_rank

    @property
    def ends(self) -> Array:
        """(S, 2): the shares of the embedding and of the head that a stage holds."""
        return ends_of(self.stages, spread=self.vocabulary != "none")


@dataclass(frozen=True)
class SpaceCosts:
    """A space with its costs. `rows` and `room_bytes` (device bytes for all rows) have one item per base candidate."""

    space: Space
    rows: RowCosts
    room_bytes: Array
    host_room_bytes: float

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
            even_stages=space.even_stages,
            vocabulary=space.vocabulary_name(entry),
        )


def space_costs(space: Space, model: ModelSpec, training: TrainingSpec, times: OpTimes) -> SpaceCosts:
    """Build the cost tables of the whole space at once."""
    rows = RowCosts.of(build_tables(model, training, space.base, times))
    usable = usable_bytes(times.node.device, times.constants)
    room = usable - fixed_bytes(space.base, times.node, times.constants)
    return SpaceCosts(space, rows, room * (1 - _ROUNDING), host_share_bytes(times.node) * (1 - _ROUNDING))
