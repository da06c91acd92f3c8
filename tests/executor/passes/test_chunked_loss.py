"""A head that computes the loss in chunks: the same gradients as all at once, and fewer logits."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from shardwright.base.errors import SpecError
from shardwright.executor.model import read_skeleton
from shardwright.executor.passes.chunked_loss import AfterHead, check_loss_chunks, compute_loss_in_head
from shardwright.executor.passes.loss import TokenLoss
from tests.parity.cases import layers, model_config, plan, plan_file

BATCH, TOKENS, HIDDEN, VOCABULARY = 2, 7, 8, 11


class _Recorded(TokenLoss):
    def __init__(self, chunks: int) -> None:
        super().__init__(vocab_size=VOCABULARY, tp_mesh=None, chunks=chunks)
        self.scale = 0.25
        self.rows: list[int] = []

    def of_logits(self, logits: Tensor, labels: Tensor) -> Tensor:
        self.rows.append(logits.shape[:-1].numel())
        return super().of_logits(logits, labels)


def _gradients(chunks: int, *, bias: bool) -> tuple[list[Tensor], list[int]]:
    torch.manual_seed(0)
    head, hidden = nn.Linear(HIDDEN, VOCABULARY, bias=bias), torch.randn(BATCH, TOKENS, HIDDEN, requires_grad=True)
    labels = torch.randint(VOCABULARY, (BATCH, TOKENS))
    labels[0, :3] = -100
    loss = _Recorded(chunks)
    if chunks > 1:
        compute_loss_in_head(head, loss, PreTrainedConfig())
        loss.expect([labels])
    total = loss(head(hidden), labels)
    torch.autograd.backward(total * 3)
    assert hidden.grad is not None
    found = [
        total.detach(),
        hidden.grad,
        *(parameter.grad for parameter in head.parameters() if parameter.grad is not None),
    ]
    assert len(found) == 3 + bias
    return found, loss.rows


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunks", [2, 5, 14])
def test_gradients_equal_those_of_all_tokens_at_once(chunks: int, bias: bool) -> None:
    whole, _ = _gradients(1, bias=bias)
    found, rows = _gradients(chunks, bias=bias)
    for own, expected in zip(found, whole, strict=True):
        torch.testing.assert_close(own, expected)
    assert max(rows) == -(-BATCH * TOKENS // chunks)
    assert sum(rows) == BATCH * TOKENS


def _file(config: dict[str, Any]) -> Any:
    return plan_file(config, plan((layers(),)), loss_chunks=2)


def test_logits_of_the_head_are_accepted() -> None:
    file = _file(model_config("llama"))
    check_loss_chunks(file, read_skeleton(file))


@pytest.mark.parametrize(
    "config",
    [
        {**model_config("llama"), "model_type": "granite", "logits_scaling": 2.0},
        {**model_config("llama"), "model_type": "gemma2", "final_logit_softcapping": 0.5},
    ],
    ids=["scaled", "capped"],
)
def test_logits_that_are_scaled_or_capped_are_accepted(config: dict[str, Any]) -> None:
    file = _file(config)
    check_loss_chunks(file, read_skeleton(file))


def test_a_model_that_changes_logits_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AfterHead, "of", classmethod(lambda cls, _config: cls()))
    file = _file({**model_config("llama"), "model_type": "granite", "logits_scaling": 2.0})
    with pytest.raises(SpecError, match="GraniteForCausalLM changes logits after its head") as caught:
        check_loss_chunks(file, read_skeleton(file))
    assert "\n" not in str(caught.value)
