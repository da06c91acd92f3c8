"""The third seam of the profiler: the ranks that measure together."""

from typing import Any, Protocol


class Ranks(Protocol):
    """The processes of one launch. Every rank calls the same methods in the same order.

    Things that are told and gathered are picklable, and small.
    """

    @property
    def rank(self) -> int:
        """This process, from 0; rank 0 decides and writes the file."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def tell(self, thing: Any) -> Any:
        """What rank 0 passes, on every rank; what the others pass is ignored."""
        ...

    def gather(self, thing: Any) -> list[Any]:
        """What each rank passes, in the order of ranks, on every rank."""
        ...

    def barrier(self) -> None:
        """Returns when every rank has come here."""
        ...


class AloneRanks:
    """One process, launched by nobody."""

    rank = 0
    size = 1

    def tell(self, thing: Any) -> Any:
        return thing

    def gather(self, thing: Any) -> list[Any]:
        return [thing]

    def barrier(self) -> None:
        return None
