"""What transformers' loss has alive in memory for each logit, beside what the cost model says of Hugging Face Trainer."""

import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from shardwright.specs.stack import named_stack

VOCABULARY, TOKENS = 8192, 128


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch leaves its base untyped
    """Bytes of the storages that operators have made and that are still alive, and the most of them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # likewise
        self.bytes = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor):
                self._count(each.untyped_storage())
        self.most = max(self.most, self.bytes)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.bytes += size
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.bytes -= size


@pytest.mark.parametrize("autocast", [False, True])
def test_the_backward_pass_of_the_loss_holds_three_copies_in_fp32(autocast: bool) -> None:
    """Softmax, the gradient of the likelihood and that of the logits; the logits themselves are gone by then."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    model = LlamaForCausalLM(config).bfloat16()
    tokens = torch.zeros(1, TOKENS, dtype=torch.int64)
    with _Alive() as alive:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(input_ids=tokens, labels=tokens).loss
        forward, alive.most = alive.most, alive.bytes
        loss.backward()
    logits, stack = TOKENS * VOCABULARY, named_stack("hf-trainer")
    assert alive.most / logits == pytest.approx(4 * stack.fp32_logit_copies + 2 * stack.keeps_logits, abs=0.5)
    assert forward < alive.most
