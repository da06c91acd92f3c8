"""The third interface of the profiler: the ranks that measure together."""

from typing import Any, Protocol


class Ranks(Protocol):
    """The processes of one launch. Every rank calls the same methods in the same order.

    Values that are told or gathered must be picklable and small.
    """

    @property
    def rank(self) -> int:
        """Number of this process, from 0. Rank 0 decides and writes the file."""
        ...

    @property
    def size(self) -> int:
        """Number of ranks."""
        ...

    def tell(self, thing: Any) -> Any:
        """Return rank 0's argument on every rank; the arguments of the others are ignored."""
        ...

    def gather(self, thing: Any) -> list[Any]:
        """Return the arguments of all ranks in their order, on every rank."""
        ...

    def barrier(self) -> None:
        """Wait until every rank has called this."""
        ...


class AloneRanks:
    """One process that nothing launched."""

    rank = 0
    size = 1

    def tell(self, thing: Any) -> Any:
        return thing

    def gather(self, thing: Any) -> list[Any]:
        return [thing]

    def barrier(self) -> None:
        return None
