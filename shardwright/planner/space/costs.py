"""What the cost tables say about every entry of the space, in the few arrays that the search works on."""

from dataclasses import dataclass, fields

from shardwright.base import Array
from shardwright.costmodel.op_times import OpTimes
from shardwright.costmodel.tables import build_tables, fixed_bytes, usable_bytes
from shardwright.specs import ClusterSpec, ScheduleName, TrainingSpec
from shardwright.specs.model import ModelSpec

from .enumerate import Space

# A plan that fills the device to the last byte must still fit when its parts are added in another order.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class RowCosts:
    """Seconds and bytes of the rows (R: layer classes, embedding, head) by recompute policy (P).

    Leading axes run over the base candidates of a space, or there are none for one entry. `forward`, `backward`: one
    microbatch, (R,) and (R, P). `first_forward` (R,), `last_backward` (R, P), `optimizer` (R,): once a step. `send` ():
    one message. `activation`, `working` (R, P), `static`, `host` (R,) sum over the rows of a rank, except that of
    `working`, `gather_window` and `reduce_buffer` (R,) the largest counts. `step` (R,): what the update needs beside `static`,
    with no activation alive. `slack` (): what the allocator adds, as a share of all but `static` and `step`. `room` ():
    device bytes for all these.
    """

    forward: Array
    backward: Array
    first_forward: Array
    last_backward: Array
    optimizer: Array
    send: Array
    activation: Array
    working: Array
    static: Array
    gather_window: Array
    reduce_buffer: Array
    step: Array
    host: Array
    slack: Array
    room: Array

    def __getitem__(self, index: object) -> "RowCosts":
        return RowCosts(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass(frozen=True)
class EntryCosts:
    """One entry of the space: its schedule's shape and its rows."""

    schedule: ScheduleName
    pp: int
    stages_per_rank: int
    microbatches: int
    rows: RowCosts
    host_room_bytes: float
    even_stages: bool = False

    @property
    def stages(self) -> int:
        return self.pp * self.stages_per_rank


@dataclass(frozen=True)
class SpaceCosts:
    """A space with its costs: `rows` has the base candidates as leading axis."""

    space: Space
    rows: RowCosts
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
            host_room_bytes=self.host_room_bytes,
            even_stages=space.even_stages,
        )


def space_costs(
    space: Space, model: ModelSpec, cluster: ClusterSpec, training: TrainingSpec, times: OpTimes
) -> SpaceCosts:
    """Cost tables of the whole space, in one go."""
    tables = build_tables(model, cluster, training, space.base, times)
    kept, node = tables.static, cluster.groups[0]
    rows = RowCosts(
        forward=tables.forward.total[:, :, 0],
        backward=tables.backward.total,
        first_forward=tables.first_forward.total[:, :, 0],
        last_backward=tables.last_backward.total,
        optimizer=tables.optimizer_seconds,
        send=tables.send_seconds,
        activation=tables.activation_bytes,
        working=tables.working_bytes,
        static=kept.stays,
        gather_window=kept.gather_window,
        reduce_buffer=kept.reduce_buffer,
        step=kept.step,
        host=kept.host,
        slack=tables.slack,
        room=(usable_bytes(node.device, times.constants) - fixed_bytes(space.base, cluster)) * (1 - _ROUNDING),
    )
    return SpaceCosts(space, rows, node.host.memory_bytes / node.devices_per_node * (1 - _ROUNDING))
