"""Batches whose sequences hold whole documents: several packed into one, or one each with padding."""

import bisect
import hashlib
from collections import defaultdict
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from shardwright.base import SpecError
from shardwright.executor.passes import IGNORED_LABEL
from shardwright.specs import Packing

from .token_streams import TokenStream
from .windows import START, Begins, shuffled

_PIECES_AT_ONCE = 2**14
_FEWEST = 2
"""Tokens of a piece that is trained on: one to read and one to predict."""


class DocumentStream(TokenStream, Protocol):
    """A stream that knows where its documents end."""

    @property
    def document_ends(self) -> NDArray[np.int64]:
        """Positions behind the last token of each document, ascending, (documents,)."""
        ...

    def counted(self, start: int, count: int) -> NDArray[np.bool_] | None:
        """Return which of the `count` tokens from position `start` on the loss counts, (count,); None: all."""
        ...


class Sequences(NamedTuple):
    """Of one data-parallel rank, int64 of (sequences, seq_len). `places`: of tokens in their documents; None where a sequence is one
    document in order."""

    inputs: torch.Tensor
    labels: torch.Tensor
    places: torch.Tensor | None


class _Pieces(NamedTuple):
    """(P,) each: where pieces of documents start in the stream, their tokens, and whether the document goes on behind them."""

    starts: NDArray[np.int64]
    tokens: NDArray[np.int64]
    go_on: NDArray[np.bool_]


class DocumentBatches:
    """The global batch of a step, as a pure function of (seed, step, data), of sequences that hold documents.

    A packed document longer than a sequence fills sequences, and its rest is a piece (`specs.Lengths.pieces`). Pieces are packed by
    best fit, the longest first (Ding et al. 2024, arXiv 2404.10830, section 3), and what stays free is padding. A padded document is cut
    off after a sequence. The last token of a document has no label, and neither has padding, nor a token before one that the stream
    does not count. A piece of one token is left out, and so is one without a label, such as a long question whose answer was cut off.

    Each epoch takes every sequence once, in its own order. Ranks take contiguous slices of a step's sequences, as in `Batches`.

    Raises:
        SpecError: no document has two tokens, or no piece a label.
    """

    def __init__(
        self,
        stream: DocumentStream,
        *,
        packing: Packing,
        seq_len: int,
        global_batch: int,
        seed: int,
        named: str = "the data",
        begins: Begins = START,
    ) -> None:
        self._begins = begins
        self._stream, self._seq_len, self._global_batch, self._seed = stream, seq_len, global_batch, seed
        self._packing = packing
        self._pieces = _pieces_of(stream.document_ends, seq_len, whole=packing == "padded")
        if not len(self._pieces.starts):
            raise SpecError(f"{named} holds no document with two tokens; give more data")
        labelled = _labelled(stream, self._pieces)
        self.left_out_share = 1.0 - float(labelled.mean())
        if not labelled.any():
            raise SpecError(
                f"{named} holds no conversation with an answer within {seq_len:,} tokens, so nothing to train on; plan with a longer --seq-len"
            )
        found = self._pieces
        self._pieces = _Pieces(found.starts[labelled], found.tokens[labelled], found.go_on[labelled])
        sequence_of = np.arange(len(self._pieces.starts))
        if packing == "packed":
            sequence_of = best_fit(self._pieces.tokens, seq_len)
        self._order = np.argsort(sequence_of, kind="stable")
        self._bounds = np.searchsorted(sequence_of[self._order], np.arange(sequence_of.max() + 2))

    @property
    def digest(self) -> str:
        described = f"{self._stream.digest} {self._packing} {self._seq_len}"
        return hashlib.sha256(described.encode()).hexdigest()[:16]

    @property
    def sequences(self) -> int:
        """Sequences of an epoch."""
        return len(self._bounds) - 1

    @property
    def mean_piece_tokens(self) -> float:
        return float(self._pieces.tokens.mean())

    @property
    def used_share(self) -> float:
        """The share of an epoch's tokens that is not padding."""
        return float(self._pieces.tokens.sum()) / (self.sequences * self._seq_len)

    def at(self, step: int, *, dp_rank: int = 0, dp_size: int = 1) -> Sequences:
        """Return the sequences of one data-parallel rank in `step` (from 1)."""
        share = self._global_batch // dp_size
        first = self._begins.first(step, self._global_batch) + dp_rank * share
        rows = [self._sequence(first + row) for row in range(share)]
        inputs, labels, places = (torch.from_numpy(np.stack(parts)) for parts in zip(*rows, strict=True))
        return Sequences(inputs, labels, places if self._packing == "packed" else None)

    def row(self, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64] | None]:
        """Return inputs, labels and places of the sequence of that number, (seq_len,) each; see `Sequences`."""
        inputs, labels, places = self._sequence(number)
        return inputs, labels, places if self._packing == "packed" else None

    def _sequence(self, number: int) -> tuple[NDArray[np.int64], ...]:
        epoch, place = divmod(number, self.sequences)
        sequence = shuffled(place, self.sequences, key=f"{self._seed}/{epoch}")
        inputs, places = (np.zeros(self._seq_len, dtype=np.int64) for _ in range(2))
        labels = np.full(self._seq_len, IGNORED_LABEL, dtype=np.int64)
        filled = 0
        for piece in self._order[self._bounds[sequence] : self._bounds[sequence + 1]]:
            count, follows = int(self._pieces.tokens[piece]), int(self._pieces.go_on[piece])
            start = int(self._pieces.starts[piece])
            read = self._stream.read(start, count + follows)
            answers = self._stream.counted(start, count + follows)
            targets = read[1:] if answers is None else np.where(answers[1:], read[1:], IGNORED_LABEL)
            inputs[filled : filled + count] = read[:count]
            labels[filled : filled + count - 1 + follows] = targets
            places[filled : filled + count] = np.arange(count)
            filled += count
        places[filled:] = np.arange(self._seq_len - filled)  # padding is a document of its own
        return inputs, labels, places


def _pieces_of(ends: NDArray[np.int64], seq_len: int, *, whole: bool) -> _Pieces:
    """Cut documents into pieces of at most a sequence; `whole`: into the first one alone."""
    starts = np.concatenate([[0], ends[:-1]])
    lengths = ends - starts
    counts = np.minimum(1, lengths) if whole else -(-lengths // seq_len)
    document = np.repeat(np.arange(len(ends)), counts)
    index = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    offsets = index * seq_len
    tokens = np.minimum(seq_len, lengths[document] - offsets)
    found = _Pieces(starts[document] + offsets, tokens, offsets + tokens < lengths[document])
    trained = tokens + found.go_on >= _FEWEST
    return _Pieces(*(part[trained] for part in found))


def _labelled(stream: DocumentStream, pieces: _Pieces) -> NDArray[np.bool_]:
    """Return which pieces hold a token that the loss counts behind their first one, (P,)."""
    found = np.ones(len(pieces.starts), dtype=np.bool_)
    ends = pieces.starts + pieces.tokens + pieces.go_on
    for first in range(0, len(found), _PIECES_AT_ONCE):
        some = slice(first, first + _PIECES_AT_ONCE)
        begin, end = int(pieces.starts[some][0]), int(ends[some][-1])
        counted = stream.counted(begin, end - begin)
        if counted is None:
            return found
        bounds = np.stack([pieces.starts[some] + 1, ends[some]], axis=1).ravel() - begin
        found[some] = np.logical_or.reduceat(np.append(counted, False), bounds)[::2]
    return found


def best_fit(tokens: NDArray[np.int64], seq_len: int) -> NDArray[np.int64]:
    """Return the sequence of each piece, (P,): the fullest one with room for it, in turn from the longest piece to the shortest."""
    full = tokens == seq_len
    count = int(full.sum())
    sequence_of = np.empty(len(tokens), dtype=np.int64)
    sequence_of[full] = np.arange(count)
    by_room: dict[int, list[int]] = defaultdict(list)
    rooms: list[int] = []  # those of `by_room` that hold a sequence, ascending
    for piece in np.argsort(-tokens, kind="stable")[count:]:
        needed = int(tokens[piece])
        place = bisect.bisect_left(rooms, needed)
        if place == len(rooms):
            sequence, room, count = count, seq_len, count + 1
        else:
            room = rooms[place]
            sequence = by_room[room].pop()
            if not by_room[room]:
                del rooms[place]
        sequence_of[piece] = sequence
        if left := room - needed:
            if not by_room[left]:
                bisect.insort(rooms, left)
            by_room[left].append(sequence)
    return sequence_of
