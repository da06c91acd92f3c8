"""Layers that take a sequence in pieces, one after the other, train as one process does, and keep what the estimate says."""

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shardwright.base.errors import SpecError
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.context import in_turn
from shardwright.executor.context.check import check_in_turn
from shardwright.executor.model.hugging_face import read_skeleton
from shardwright.specs.plan import Plan
from tests.parity.cases import FamilyName, layers, model_config, plan, plan_file
from tests.parity.families import FAMILIES, OTHERS
from tests.parity.updates import TOLERANCE, assert_equal_to, engine_run, reference_run, worst_update_error
from tests.parity.worlds import run_again, run_in_turn


def _file(family: FamilyName, of: Plan, pieces: int) -> PlanFile:
    return plan_file(model_config(family, layers=of.layer_count), of, sequence_chunks=pieces)


CASES = {
    "one rank": _file("llama", plan((layers(2),)), 3),
    "one rank, gpt2": _file("gpt2", plan((layers(2),)), 2),
    "windows, one rank": plan_file(FAMILIES["gemma3_text"], plan((layers(2),)), sequence_chunks=4),
    "zero 3, full recompute": _file("llama", plan((layers(2, zero=3, recompute="full"),), dp_shard=2), 4),
    "zero 2": _file("qwen3", plan((layers(2, zero=2),), dp_shard=2, microbatches=2), 3),
    "tp": _file("llama", plan((layers(2),), tp=2, sequence_parallel=False), 3),
    "pipeline": _file("llama", plan((layers(1),), (layers(1, recompute="full"),), pp=2, microbatches=2), 2),
    "tp, pp and zero 1 on 8 ranks": _file(
        "qwen3",
        plan(
            (layers(1, zero=1),), (layers(1, zero=1),), pp=2, dp_shard=2, tp=2, microbatches=2, sequence_parallel=False
        ),
        3,
    ),
}
SIZES = sorted({case.plan.mesh.ranks for case in CASES.values()})


@pytest.mark.parametrize("ranks", SIZES)
def test_updates_equal_those_of_one_process(ranks: int) -> None:
    files = {name: file for name, file in CASES.items() if file.plan.mesh.ranks == ranks}
    for file in files.values():
        check_in_turn(file, read_skeleton(file))
    for name, own in run_in_turn(ranks, engine_run, {name: (file,) for name, file in files.items()}).items():
        assert_equal_to(reference_run(files[name]), own, name)


def see_no_piece_before() -> None:
    """Queries see the keys and values of their own piece alone."""
    original = in_turn._Piece
    in_turn._Piece = lambda before: original(())  # type: ignore[misc, assignment]


def lose_the_gradients_of_keys() -> None:
    """Those that come from later pieces."""
    original = in_turn._Piece
    in_turn._Piece = lambda before: original(tuple(each.detach() for each in before))  # type: ignore[misc, assignment]


def turn_all_pieces_as_the_first() -> None:
    """Each piece has the rotations of the first tokens."""
    original = in_turn._of_piece

    def first(given: object, tokens: int, start: int, end: int) -> object:
        rotations = isinstance(given, Tensor) and given.dim() == 3
        return original(given, tokens, 0, end - start) if rotations else original(given, tokens, start, end)

    in_turn._of_piece = first


@pytest.mark.parametrize("fault", [see_no_piece_before, lose_the_gradients_of_keys, turn_all_pieces_as_the_first])
@pytest.mark.parametrize("name", ["one rank", "zero 3, full recompute"])
def test_a_fault_shows_in_the_updates(name: str, fault: Callable[[], None]) -> None:
    file = CASES[name]
    own = run_again(file.plan.mesh.ranks, engine_run, file, None, fault)
    assert worst_update_error(own, reference_run(file)) > TOLERANCE


def test_a_class_that_computes_otherwise_is_refused_in_one_line() -> None:
    """Qwen3-Next's recurrent layers pass a state on."""
    file = plan_file(OTHERS["qwen3_next"], plan((layers(2),)))
    file = file.model_copy(update={"training": file.training.model_copy(update={"sequence_chunks": 2})})
    with pytest.raises(SpecError, match=r"Qwen3Next.*plan without --sequence-chunks") as refused:
        check_in_turn(file, read_skeleton(file))
    assert "\n" not in str(refused.value)


def test_the_tensors_of_one_piece_are_alive() -> None:
    """When the gradient of a piece's feed-forward comes, its own tensor has been used up and the other three pieces have none. All at once they
    would have three, two, one and none."""
    made: list[weakref.ref[torch.UntypedStorage]] = []
    alive: list[list[int]] = []

    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = torch.nn.Linear(8, 512)

        def forward(self, hidden: Tensor) -> Tensor:
            in_turn._in_hand[-1].own = [hidden, hidden]
            inner: Tensor = self.up(hidden)
            made.append(weakref.ref(inner.untyped_storage()))
            inner.register_hook(lambda _: alive.append([kept.nbytes() for one in made if (kept := one()) is not None]))  # type: ignore[no-untyped-call]  # torch's
            return hidden + inner.square().sum(-1, keepdim=True)

    layer = Layer()
    in_turn.take_in_turn(layer, 4)
    layer(torch.randn(1, 64, 8, requires_grad=True)).sum().backward()
    assert alive == [[]] * 4
