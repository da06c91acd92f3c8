import pytest
import torch
from torch import nn

from shardwright.base.errors import SpecError
from shardwright.executor.model.attention import recompute_core
from shardwright.executor.model.hugging_face import read_skeleton
from tests.parity.cases import layers, model_config, plan, plan_file


@pytest.mark.parametrize(("kernel", "changes"), [("unfused", True), ("flash", False)])
def test_only_the_unfused_core_is_computed_again(kernel: str, changes: bool) -> None:
    file = plan_file(model_config("llama"), plan((layers(),)), attention="unfused" if kernel == "unfused" else "flash")
    skeleton = read_skeleton(file)
    first, second = skeleton.layer(0), skeleton.layer(1)
    recompute_core(first)
    own, other = (str(layer.get_submodule("self_attn").config._attn_implementation) for layer in (first, second))  # type: ignore[union-attr]  # attention holds its config
    assert (own != other) == changes


def test_a_layer_without_attention_is_refused() -> None:
    with pytest.raises(SpecError, match="Linear has no attention core to recompute"):
        recompute_core(nn.Linear(2, 2, device=torch.device("meta")))
