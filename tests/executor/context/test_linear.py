"""Recurrent layers over pieces of a sequence, all on one rank, beside the same layers over the whole sequence."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shardwright.executor.context import SequencePieces, divide_linear_attention
from shardwright.executor.context.dealing import Dealing
from shardwright.executor.context.lightning import is_lightning
from shardwright.executor.context.linear import is_recurrent
from shardwright.executor.context.pieces import OneRank
from shardwright.executor.model import read_skeleton, tiny_model
from tests.parity.cases import layers, plan, plan_file
from tests.parity.families import HYBRIDS, OTHERS

FAMILIES = {"qwen3_next": OTHERS["qwen3_next"]} | HYBRIDS
TOKENS = 24  # of the whole sequence; four pieces of six


def mixer(family: str) -> nn.Module:
    model = tiny_model(read_skeleton(plan_file(FAMILIES[family], plan((layers(),)))), axis="cp")
    return next(part for part in model.modules() if is_recurrent(part) or is_lightning(part))


def outputs(module: nn.Module, hidden: Tensor) -> Tensor:
    given: dict[str, Any] = {"position_embeddings": None} if is_lightning(module) else {}
    found = module(hidden_states=hidden, attention_mask=None, **given)
    output: Tensor = found[0] if isinstance(found, tuple) else found
    return output


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_out_of_order_give_what_the_whole_sequence_gives(family: str) -> None:
    """Outputs and gradients of inputs, and what two sequences have is kept apart."""
    torch.manual_seed(0)
    whole = mixer(family)
    divided = copy.deepcopy(whole)
    pieces = SequencePieces(OneRank(), ((1, 3, 0, 2),))
    order = torch.arange(TOKENS).view(4, -1)[list(pieces.own)].flatten()
    divide_linear_attention(divided, pieces)
    hidden = torch.randn(2, TOKENS, 160)
    results = []
    for module, given in ((whole, hidden), (divided, hidden[:, order])):
        given = given.clone().requires_grad_()
        output = outputs(module, given)
        weights = torch.linspace(-1, 1, TOKENS)[None, :, None]
        torch.autograd.backward((output * (weights if module is whole else weights[:, order])).sum())
        assert given.grad is not None
        results.append((output.detach(), given.grad))
    for own, expected in zip(results[1], results[0], strict=True):
        assert float((own - expected[:, order]).norm() / expected.norm()) < 1e-4
    for one, two in zip(divided.parameters(), whole.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert float((one.grad - two.grad).norm()) <= 1e-3 * float(two.grad.norm())


def test_a_state_that_is_not_passed_on_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    own = SequencePieces.begins
    monkeypatch.setattr(SequencePieces, "begins", lambda *given: torch.zeros_like(own(*given)))
    with pytest.raises(AssertionError):
        test_pieces_out_of_order_give_what_the_whole_sequence_gives("qwen3_next")


def test_tokens_before_a_convolution_that_are_missing_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SequencePieces, "before", lambda _self, ends: torch.zeros_like(ends))
    with pytest.raises(AssertionError):
        test_pieces_out_of_order_give_what_the_whole_sequence_gives("bamba")


@pytest.mark.parametrize(
    ("rings", "trading", "places"),
    [
        (2, 1, ((0, 3), (1, 2))),
        (1, 2, ((0,), (1,))),
        (2, 2, ((0, 1), (6, 7), (2, 3), (4, 5))),
        (1, 1, ((0,),)),
    ],
)
def test_pieces_are_where_tokens_are_dealt(rings: int, trading: int, places: tuple[tuple[int, ...], ...]) -> None:
    assert SequencePieces.of_dealing(Dealing(16, rings, trading), OneRank()).places == places


def test_tokens_of_pieces_come_together_again() -> None:
    pieces = SequencePieces(OneRank(), ((1, 0),))
    hidden = torch.arange(24.0).view(2, 6, 2)
    apart = pieces.apart(hidden)
    assert apart.shape == (4, 3, 2)
    assert torch.equal(apart[1], hidden[1, :3])  # the first piece of the second sequence
    assert torch.equal(pieces.together(apart), hidden)
