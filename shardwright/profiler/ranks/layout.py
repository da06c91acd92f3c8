"""Groups of the ranks of a launch: every degree that a mesh could have, as the cost model distinguishes them."""

from dataclasses import dataclass

from .nodes import Nodes


@dataclass(frozen=True)
class GroupSizes:
    """A `RankGroup` of the cost model in whole numbers: one kind of group, for any axis of a mesh."""

    ranks_per_node: int
    nodes: int
    sharing: int

    @property
    def ranks(self) -> int:
        return self.ranks_per_node * self.nodes


@dataclass(frozen=True)
class GroupLayout:
    """Groups of `degree` ranks that are `stride` apart; every rank belongs to one of them.

    The stride of tensor-parallel groups is 1. That of data-parallel groups is the tensor-parallel degree. That of
    pipeline neighbours is the number of ranks of a stage. `alone`: only the group of rank 0 works and the others wait;
    otherwise all groups work at once, as in training.
    """

    stride: int
    degree: int
    alone: bool = False

    def members(self, rank: int) -> tuple[int, ...]:
        """Return the ranks of the group that holds `rank`."""
        span = self.stride * self.degree
        first = rank // span * span + rank % self.stride
        return tuple(range(first, first + span, self.stride))

    def works(self, rank: int) -> bool:
        """Whether `rank` takes part."""
        return not self.alone or rank in self.members(0)


def group_layouts(nodes: Nodes) -> dict[GroupSizes, GroupLayout]:
    """Return one layout for each kind of group among these ranks.

    Strides and degrees are those whose product divides the ranks, if every group has equally many ranks on each of its
    nodes. Of several layouts of the same sizes the first is taken. Groups that work at once come before a group that
    works alone.
    """
    ranks = len(nodes.hosts)
    pairs = [(stride, degree) for degree in range(2, ranks + 1) for stride in range(1, ranks // degree + 1)]
    found: dict[GroupSizes, GroupLayout] = {}
    for alone in (False, True):
        for stride, degree in pairs:
            layout = GroupLayout(stride, degree, alone)
            sizes = _sizes(layout, nodes) if ranks % (stride * degree) == 0 else None
            if sizes is not None:
                found.setdefault(sizes, layout)
    return found


def _sizes(layout: GroupLayout, nodes: Nodes) -> GroupSizes | None:
    """Return the sizes of the groups, or None where the groups of `layout` are not alike on every node."""
    groups = {layout.members(rank) for rank in range(len(nodes.hosts)) if layout.works(rank)}
    on_nodes = [[nodes.node_of(rank) for rank in members] for members in groups]
    per_node = {places.count(node) for places in on_nodes for node in places}
    spans = {len(set(places)) for places in on_nodes}
    if len(per_node) > 1 or len(spans) > 1:
        return None
    sharing = max(sum(node in places for places in on_nodes) for node in range(nodes.count))
    return GroupSizes(ranks_per_node=per_node.pop(), nodes=spans.pop(), sharing=sharing)
