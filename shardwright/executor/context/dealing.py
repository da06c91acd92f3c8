"""Which tokens of a sequence each rank of cp holds."""

from dataclasses import dataclass

from shardwright.specs import Plan


@dataclass(frozen=True)
class Dealing:
    """The tokens of `seq_len` dealt to `rings` x `trading` ranks, of which consecutive ones trade heads.

    Each group of `trading` ranks holds two of 2 `rings` equal chunks: the g-th from the front and the g-th from the back, in
    order (zig-zag; Llama 3, arXiv 2407.21783, section 3.3.2). A single group holds the whole sequence. Within a group
    each rank holds an equal run of the group's tokens.
    """

    seq_len: int
    rings: int
    trading: int

    @classmethod
    def of_plan(cls, plan: Plan, seq_len: int) -> "Dealing":
        """Return how a plan deals its sequences."""
        degrees = {"ulysses": plan.mesh.cp, "ulysses-ring": plan.ulysses_degree}
        trading = degrees.get(plan.context_parallel, 1)
        return cls(seq_len, plan.mesh.cp // trading, trading)

    @property
    def tokens_per_rank(self) -> int:
        return self.seq_len // (self.rings * self.trading)

    def of_group(self, group: int) -> list[int]:
        """Return the positions of the tokens of a group, ascending."""
        if self.rings == 1:
            return list(range(self.seq_len))
        chunk = self.seq_len // (2 * self.rings)
        return [
            position
            for index in (group, 2 * self.rings - 1 - group)
            for position in range(index * chunk, (index + 1) * chunk)
        ]

    def of_rank(self, rank: int) -> list[int]:
        """Return the positions of the tokens of rank `rank` of cp, ascending."""
        group, place = divmod(rank, self.trading)
        return self.of_group(group)[place * self.tokens_per_rank : (place + 1) * self.tokens_per_rank]
