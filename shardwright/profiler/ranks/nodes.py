"""The machine of each rank of a launch."""

from collections import Counter
from dataclasses import dataclass
from itertools import groupby

from shardwright.base import SpecError


@dataclass(frozen=True)
class Nodes:
    """`hosts`: the machine of each rank, in the order of ranks: node by node, equally many on each.

    Raises:
        SpecError: the ranks have another layout.
    """

    hosts: tuple[str, ...]

    def __post_init__(self) -> None:
        counts = Counter(self.hosts)
        if len(set(counts.values())) > 1:
            (most, many), (least, few) = counts.most_common()[0], counts.most_common()[-1]
            raise SpecError(
                f"{most} runs {many} of the ranks and {least} {few}; start equally many on every node, such as --nproc-per-node={few}"
            )
        if len(list(groupby(self.hosts))) > len(counts):
            raise SpecError(
                f"ranks 0 to {len(self.hosts) - 1} run on {', '.join(self.hosts)}; number them node by node (srun --distribution=block)"
            )

    @property
    def count(self) -> int:
        """Number of nodes."""
        return len(set(self.hosts))

    @property
    def ranks_per_node(self) -> int:
        return len(self.hosts) // self.count

    def node_of(self, rank: int) -> int:
        """Return the node of `rank`, from 0."""
        return rank // self.ranks_per_node
