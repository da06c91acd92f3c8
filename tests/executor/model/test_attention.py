from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from shardwright.base.errors import SpecError
from shardwright.executor.model.attention import recompute_core
from shardwright.executor.model.check_division import tiny_model
from shardwright.executor.model.hugging_face import read_skeleton
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.families import OTHERS, UNDIVIDED


@pytest.mark.parametrize(("kernel", "changes"), [("unfused", True), ("flash", False)])
def test_only_the_unfused_core_is_computed_again(kernel: str, changes: bool) -> None:
    file = plan_file(model_config("llama"), plan((layers(),)), attention="unfused" if kernel == "unfused" else "flash")
    skeleton = read_skeleton(file)
    first, second = skeleton.layer(0), skeleton.layer(1)
    recompute_core(first)
    own, other = (str(layer.get_submodule("self_attn").config._attn_implementation) for layer in (first, second))  # type: ignore[union-attr]  # attention holds its config
    assert (own != other) == changes


class _Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Counts calls of operators by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "config", [UNDIVIDED["bloom"], UNDIVIDED["mpt"], OTHERS["falcon"]], ids=["bloom", "mpt", "falcon"]
)
def test_a_core_within_attention_runs_again_and_the_linears_do_not(config: dict[str, Any]) -> None:
    calls = []
    for again in (False, True):
        model = tiny_model(read_skeleton(plan_file(config, plan((layers(),)), attention="unfused")), axis="tp")
        attention = next(part for part in model.modules() if type(part).__name__.endswith("Attention"))
        if again:
            recompute_core(attention)
        logits = model(input_ids=torch.arange(6)[None], use_cache=False).logits
        with _Counted() as counted:
            torch.autograd.backward(logits.sum())
        calls.append(counted.calls)
    assert (calls[0]["_softmax"], calls[1]["_softmax"]) == (0, 1)
    assert all(calls[0][name] == calls[1][name] for name in ("addmm", "mm"))


def test_a_layer_without_attention_is_refused() -> None:
    with pytest.raises(SpecError, match="Linear has no attention core to recompute"):
        recompute_core(nn.Linear(2, 2, device=torch.device("meta")))
