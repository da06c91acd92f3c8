"""Runs of neighbouring tokens that ranks of cp hold, and what recurrent layers pass from one to the next."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.placement_types import Placement

from shardwright.costmodel import PlanFile
from shardwright.executor.model import MeshRanks, Move, Ranks
from shardwright.specs.model import LinearAttention

from .dealing import Dealing


class OneRank:
    """A rank that holds all pieces itself: nothing is exchanged."""

    rank, size = 0, 1

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    def gather(self, tensor: Tensor, dim: int) -> Tensor:
        return tensor.view_as(tensor)

    def scatter(self, tensor: Tensor, dim: int) -> Tensor:
        return tensor.view_as(tensor)

    def part(self, parameter: nn.Parameter, placement: Placement) -> nn.Parameter:
        return parameter

    def local(self, parameter: Tensor, *, partial: bool) -> Tensor:
        return parameter


@dataclass(frozen=True)
class SequencePieces:
    """The tokens of a rank as `count` equal pieces.

    `places`: where each rank's pieces are in the sequence, (ranks, count); piece 0 is its begin.
    """

    ranks: Ranks
    places: tuple[tuple[int, ...], ...]

    @classmethod
    def of_dealing(cls, dealing: Dealing, ranks: Ranks) -> "SequencePieces":
        """Return the pieces as `dealing` deals them: two a rank in zig-zag order, and one where each rank has a single run."""
        count = pieces_per_rank(dealing)
        length = dealing.tokens_per_rank // count
        own = [dealing.of_rank(rank)[::length] for rank in range(dealing.rings * dealing.trading)]
        return cls(ranks, tuple(tuple(start // length for start in starts) for starts in own))

    @property
    def count(self) -> int:
        return len(self.places[0])

    @property
    def own(self) -> tuple[int, ...]:
        """The places of this rank's pieces."""
        return self.places[self.ranks.rank]

    def apart(self, hidden: Tensor) -> Tensor:
        """Map the tokens of a rank, (batch, tokens, ...), to its pieces, (count batch, tokens / count, ...)."""
        return hidden.view(len(hidden), self.count, -1, *hidden.shape[2:]).transpose(0, 1).flatten(0, 1)

    def together(self, pieces: Tensor) -> Tensor:
        """Invert `apart`."""
        return self._by_piece(pieces).transpose(0, 1).flatten(1, 2)

    def all(self, of_pieces: Tensor) -> Tensor:
        """Gather what belongs to each piece, (count batch, ...), in the order of the sequence, (pieces, batch, ...)."""
        gathered = _GATHER(self._by_piece(of_pieces), self.ranks)
        flat = [place for of_rank in self.places for place in of_rank]
        return gathered[sorted(range(len(flat)), key=flat.__getitem__)]

    def _by_piece(self, tensor: Tensor) -> Tensor:
        """Map (count batch, ...) to (count, batch, ...)."""
        return tensor.reshape(self.count, -1, *tensor.shape[1:])

    def before(self, ends: Tensor) -> Tensor:
        """Return the end of the piece before each own one, nothing but zeros before the first; both (count batch, ...)."""
        found = self.all(ends)
        shifted = torch.cat([torch.zeros_like(found[:1]), found[:-1]])
        return shifted[list(self.own)].flatten(0, 1)

    def begins(self, summaries: Tensor, start: Tensor, apply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return the state with which each own piece begins, (count batch, ...).

        `summaries` (count batch, ...): what each own piece does to a state. `start` (batch, ...): the state before the sequence.
        `apply(summary, state)`: the state after a piece.
        """
        states = [start]
        for summary in self.all(summaries)[:-1]:
            states.append(apply(summary, states[-1]))
        # a choice among all of them: the first piece's gradient is zero, and its rank still takes part in the exchange
        return torch.stack(states)[list(self.own)].flatten(0, 1)


def sequence_pieces(plan_file: PlanFile, device_type: str) -> SequencePieces | None:
    """Return the pieces of this rank's sequences, None without cp or recurrent layers. Every rank of the default process group calls
    this, and they are numbered as in `specs.Mesh`."""
    mesh, blocks = plan_file.plan.mesh, plan_file.model().layer_classes
    if mesh.cp == 1 or not any(isinstance(block.attention, LinearAttention) for block in blocks):
        return None
    shape = (mesh.ranks // (mesh.cp * mesh.tp), mesh.cp, mesh.tp)
    ranks = MeshRanks(init_device_mesh(device_type, shape, mesh_dim_names=("block", "cp", "tp"))["cp"])
    return SequencePieces.of_dealing(Dealing.of_plan(plan_file.plan, plan_file.training.seq_len), ranks)


def pieces_per_rank(dealing: Dealing) -> int:
    """Return into how many runs of neighbouring tokens those of a rank are cut."""
    return 1 if dealing.rings == 1 else 2


def _gather(tensor: Tensor, ranks: Any) -> Tensor:
    gathered: Tensor = ranks.gather(tensor, 0)
    return gathered


def _scatter(tensor: Tensor, ranks: Any) -> Tensor:
    scattered: Tensor = ranks.scatter(tensor, 0)
    return scattered


_GATHER = Move(_gather, _scatter)


def pieces_within(module: nn.Module, pieces: SequencePieces) -> None:
    """Let a recurrent module compute with pieces of the sequence it is given. They are together again before its last linear, whose
    output tensor parallelism may scatter along the sequence."""

    def last(forward: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return forward(pieces.together(given[0]), *given[1:], **options)

    def whole(forward: Callable[..., Any], given: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if "hidden_states" in options:
            return forward(*given, **{**options, "hidden_states": pieces.apart(options["hidden_states"])})
        return forward(pieces.apart(given[0]), *given[1:], **options)

    wrap(module.get_submodule("out_proj"), last)
    wrap(module, whole)


Around = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def wrap(module: nn.Module, around: Around) -> None:
    """Let `around(forward, arguments, options)` take the place of the module's forward."""
    forward = module.forward

    def wrapped(*given: Any, **options: Any) -> Any:
        return around(forward, given, options)

    module.forward = wrapped
