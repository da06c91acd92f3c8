"""How long the documents of a data set are, and what that makes of a slot of `seq_len` tokens."""

import math
from typing import Literal, NamedTuple, Self

from pydantic import model_validator

from .spec import PositiveFloat, Spec

Packing = Literal["packed", "padded"]

MOST_CLASSES = 256
"""Classes of length that are kept apart. Of more, neighbours of equal weight in tokens are joined."""
_UNIFORM_CLASSES = 64
_SUMS_TO_ONE = 1e-6


class Pieces(NamedTuple):
    """What documents are in slots: `tokens` long pieces, and the share of all pieces that are so long."""

    tokens: tuple[float, ...]
    shares: tuple[float, ...]

    def mean(self, power: int = 1) -> float:
        """The mean of a piece's tokens to that power."""
        return math.fsum(share * length**power for length, share in zip(self.tokens, self.shares, strict=True))


class Lengths(Spec):
    """A histogram of documents: `shares` (K,) of them have `tokens` (K,) tokens, ascending. `name`: how it was given."""

    name: str
    tokens: tuple[PositiveFloat, ...]
    shares: tuple[PositiveFloat, ...]

    @model_validator(mode="after")
    def _is_a_histogram(self) -> Self:
        if not self.tokens or len(self.tokens) != len(self.shares):
            raise ValueError(
                f"lengths need as many tokens as shares, one at least, not {len(self.tokens)} and {len(self.shares)}"
            )
        if list(self.tokens) != sorted(set(self.tokens)):
            raise ValueError("the tokens of lengths must ascend")
        if abs(math.fsum(self.shares) - 1) > _SUMS_TO_ONE:
            raise ValueError(f"the shares of lengths sum to {math.fsum(self.shares):g}, not to 1")
        return self

    @classmethod
    def of_counts(cls, name: str, counts: dict[int, float]) -> Self:
        """Return the histogram of `counts`: how many documents have so many tokens. At most `MOST_CLASSES` classes are kept;
        each keeps its documents and its tokens."""
        lengths, total = sorted(counts), math.fsum(counts.values())
        tokens_each = math.fsum(length * counts[length] for length in lengths) / MOST_CLASSES
        groups: list[list[int]] = []
        filled = 0.0
        for length in lengths:
            if len(lengths) <= MOST_CLASSES or filled >= tokens_each * len(groups):
                groups.append([])
            groups[-1].append(length)
            filled += length * counts[length]
        shares = [math.fsum(counts[length] for length in group) for group in groups]
        tokens = [
            math.fsum(length * counts[length] for length in group) / share
            for group, share in zip(groups, shares, strict=True)
        ]
        return cls(name=name, tokens=tuple(tokens), shares=tuple(share / total for share in shares))

    @classmethod
    def uniform(cls, low: int, high: int) -> Self:
        """Return lengths that are all equally frequent from `low` to `high`, in classes of equal width."""
        classes = min(_UNIFORM_CLASSES, high - low + 1)
        width = (high - low + 1) / classes
        tokens = tuple(low - 0.5 + (place + 0.5) * width for place in range(classes))
        return cls(name=f"uniform:{low}..{high}", tokens=tokens, shares=(1 / classes,) * classes)

    @property
    def mean_tokens(self) -> float:
        return math.fsum(share * length for length, share in zip(self.tokens, self.shares, strict=True))

    def longer_than(self, slot: int) -> float:
        """The share of documents that have more than `slot` tokens."""
        return math.fsum(share for length, share in zip(self.tokens, self.shares, strict=True) if length > slot)

    def used_share(self, slot: int) -> float:
        """The share of slots that holds tokens where each document is padded, or cut off, to a slot of its own."""
        cut = (share * min(length, slot) for length, share in zip(self.tokens, self.shares, strict=True))
        return math.fsum(cut) / slot

    def pieces(self, slot: int) -> Pieces:
        """Return the pieces of documents that are packed: a document longer than a slot fills slots, and its rest is a piece."""
        found: dict[float, float] = {}
        for length, share in zip(self.tokens, self.shares, strict=True):
            whole, rest = divmod(length, slot)
            for piece, count in ((float(slot), whole), (rest, 1.0)):
                if piece and count:
                    found[piece] = found.get(piece, 0.0) + share * count
        total = math.fsum(found.values())
        tokens = tuple(sorted(found))
        return Pieces(tokens, tuple(found[piece] / total for piece in tokens))
