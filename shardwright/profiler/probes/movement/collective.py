"""Collectives among the ranks of the launch, by size and by each kind of
group that a mesh of these ranks could have."""

import math
from collections.abc import Sequence
from typing import get_args

import torch
import torch.distributed as dist

from shardwright.costmodel.op_times import CollectiveName
from shardwright.profiler.ranks import GroupLayout, GroupSizes, TorchRanks, group_layouts
from shardwright.profiler.timing import (
    JointWork,
    Machine,
    Sizes,
    UnavailableError,
    Work,
    beside,
    busy_bytes,
    busy_matmul,
)
from shardwright.specs import Format

_ELEMENT_BYTES = 4
# The middle first, then the ends, then sizes between them.
_CPU_SIZES_BYTES = (2**20, 2**16, 2**24, 2**12, 2**18, 2**22, 2**26)
_GPU_SIZES_BYTES = (2**22, 2**18, 2**26, 2**14, 2**28, 2**16, 2**20, 2**24, 2**30)
_LEAST_COMPUTING_BYTES = 2**20  # a shorter one ends before the compute beside it has really begun


def collective_probes(ranks: TorchRanks, machine: Machine) -> list["CollectiveProbe"]:
    """Return every collective, alone and while computing; none for a single rank."""
    if ranks.size == 1:
        return []
    return [
        CollectiveProbe(name, ranks, machine, computing=computing)
        for computing in (False, True)
        for name in get_args(CollectiveName)
    ]


class CollectiveProbe:
    """One collective (`Probe`), at the sizes of a `RankGroup` of the cost model.

    `size_bytes` is the whole tensor, gathered or unreduced. For an all-to-all it is all that one rank holds, its own
    part included. For a send it is the message.

    All groups of a kind work at once, as in training. Where several of them share a node, the group of rank 0 is also
    measured alone. A send goes both ways at once, as between pipeline stages. A broadcast comes from each rank of its
    group in turn, so that no rank can run ahead of the others.
    """

    axes = ("size_bytes", "ranks_per_node", "nodes", "sharing")
    format: Format | None = None

    def __init__(self, name: CollectiveName, ranks: TorchRanks, machine: Machine, *, computing: bool = False) -> None:
        self.operation: str = name
        self.variant = "computing" if computing else ""
        self._name: CollectiveName = name
        self._ranks, self._computing = ranks, computing
        self._layouts = {
            sizes: layout
            for sizes, layout in group_layouts(ranks.nodes).items()
            if (name != "send" or sizes.ranks == 2) and not (computing and layout.alone)
        }
        on_gpu = machine.device.type == "cuda"
        least_bytes = _LEAST_COMPUTING_BYTES if computing else 0
        self._sizes_bytes = [size for size in (_GPU_SIZES_BYTES if on_gpu else _CPU_SIZES_BYTES) if size >= least_bytes]
        self._busy_bytes = busy_bytes(machine) if computing else 0.0
        self._tried: set[GroupLayout] = set()

    def first_sizes(self) -> Sequence[Sizes]:
        return [
            (self._divisible(size_bytes, group), group.ranks_per_node, group.nodes, group.sharing)
            for size_bytes in self._sizes_bytes
            for group in self._layouts
        ]

    def needed_bytes(self, at: Sizes) -> float:
        """Bytes of a rank's input and output, which are one tensor in some collectives."""
        size_bytes, group = self._read(at)
        of_whole: dict[str, float] = {
            "all_reduce": 1,
            "broadcast": 1,
            "all_gather": 1 + 1 / group.ranks,
            "reduce_scatter": 1 + 1 / group.ranks,
            "all_to_all": 2,
            "send": 2,
        }
        return of_whole[self._name] * size_bytes + self._busy_bytes

    def between(self, one: Sizes, other: Sizes) -> Sizes | None:
        """Return a size in the same kind of group; there are no groups between two kinds."""
        if one[1:] != other[1:]:
            return None
        _, group = self._read(one)
        size_bytes = self._divisible(math.sqrt(one[0] * other[0]), group)
        return None if size_bytes in (one[0], other[0]) else (size_bytes, *one[1:])

    def prepare(self, at: Sizes, machine: Machine) -> Work:
        """Prepare the same sizes in the same order on all ranks. Ranks whose group waits get work that does nothing.

        Raises:
            UnavailableError: these ranks form no such group, or the backend lacks the collective.
        """
        size_bytes, group = self._read(at)
        layout = self._layouts.get(group)
        if layout is None:
            raise UnavailableError(
                f"{self._ranks.size} ranks on {self._ranks.nodes.count} nodes form no groups of {group.ranks_per_node} ranks "
                f"on each of {group.nodes} nodes, {group.sharing} of which share a node"
            )
        members = layout.members(self._ranks.rank)
        process_group = self._ranks.group(members)
        if not layout.works(self._ranks.rank):
            return _Waiting()
        self._try_once(layout, members, process_group, machine.device)
        work = CollectiveWork(self._name, round(size_bytes), members, process_group, machine.device)
        return beside(work, busy_matmul(machine), machine) if self._computing else work

    def _try_once(
        self, layout: GroupLayout, members: tuple[int, ...], group: dist.ProcessGroup, device: torch.device
    ) -> None:
        """Run the first collective of a group, which sets up its connections and shows whether the backend has it."""
        if layout in self._tried:
            return
        try:
            CollectiveWork(self._name, _ELEMENT_BYTES * len(members), members, group, device)()
        except (NotImplementedError, RuntimeError, ValueError) as error:
            if not any(words in str(error).lower() for words in ("support", "implement", "not available")):
                raise
            raise UnavailableError(
                f"{dist.get_backend(group)} has no {self._name}: {str(error).splitlines()[0]}"
            ) from error
        self._tried.add(layout)

    def _read(self, at: Sizes) -> tuple[float, GroupSizes]:
        size_bytes, ranks_per_node, nodes, sharing = at
        return size_bytes, GroupSizes(round(ranks_per_node), round(nodes), round(sharing))

    def _divisible(self, size_bytes: float, group: GroupSizes) -> float:
        """Return the nearest size that divides evenly over all ranks, in whole elements."""
        unit = _ELEMENT_BYTES * group.ranks
        return float(unit * max(1, round(size_bytes / unit)))


class CollectiveWork(JointWork):
    """One collective on tensors that are made once. `given` is its input and
    `result` its output, possibly the same tensor."""

    def __init__(
        self,
        name: CollectiveName,
        size_bytes: int,
        members: tuple[int, ...],
        group: dist.ProcessGroup,
        device: torch.device,
    ) -> None:
        """`members`: global ranks, including this one. `size_bytes`: as in `CollectiveProbe`."""
        self._name, self._members, self._group = name, members, group
        elements = size_bytes // _ELEMENT_BYTES
        part = elements // len(members)
        self.given = torch.zeros(part if name == "all_gather" else elements, device=device)
        self.result = self.given
        if name in ("all_gather", "all_to_all", "send"):
            self.result = torch.zeros(elements, device=device)
        elif name == "reduce_scatter":
            self.result = torch.zeros(part, device=device)
        self._calls = 0

    def __call__(self) -> object:
        if self._name == "all_reduce":
            return dist.all_reduce(self.given, group=self._group)
        if self._name == "all_gather":
            return dist.all_gather_into_tensor(self.result, self.given, group=self._group)
        if self._name == "reduce_scatter":
            return dist.reduce_scatter_tensor(self.result, self.given, group=self._group)
        if self._name == "all_to_all":
            return dist.all_to_all_single(self.result, self.given, group=self._group)
        if self._name == "broadcast":
            source = self._members[self._calls % len(self._members)]
            self._calls += 1
            return dist.broadcast(self.given, source, group=self._group)
        return self._exchange()

    def _exchange(self) -> object:
        """Each of the two ranks sends one message and receives one."""
        peer = next(rank for rank in self._members if rank != dist.get_rank())
        sent = dist.P2POp(dist.isend, self.given, peer, self._group)
        received = dist.P2POp(dist.irecv, self.result, peer, self._group)
        for request in dist.batch_isend_irecv([sent, received]):
            request.wait()
        return self.result


class _Waiting(JointWork):
    """The work of a rank whose group does not work: it meets the others where they agree on the next step."""

    def __call__(self) -> None:
        return None


def all_reduce_of_all(ranks: TorchRanks, purpose: str, size_bytes: int, machine: Machine) -> CollectiveWork:
    """Return an all-reduce of about `size_bytes` by all ranks, in a separate group for this purpose.

    Raises:
        UnavailableError: there is only one rank.
    """
    if ranks.size == 1:
        raise UnavailableError("a single rank has no other rank to communicate with")
    members = tuple(range(ranks.size))
    divisible = size_bytes // (_ELEMENT_BYTES * ranks.size) * _ELEMENT_BYTES * ranks.size
    group = ranks.group(members, purpose)
    return CollectiveWork("all_reduce", divisible, members, group, machine.device)
