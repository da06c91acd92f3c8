"""Which sets of modules are tried: those that free most for a second that they repeat."""

import pytest

from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.op_times.choice import op_times
from shardwright.planner.space.module_sets import module_sets
from shardwright.specs.training import TrainingSpec


@pytest.mark.parametrize(
    ("model", "sets"),
    [
        # norms are cheap to repeat; an MLP frees less for a second than a layer, and flash attention keeps no scores
        ("llama-3.1-8b", [("layernorm",)]),
        ("mixtral-8x22b", [("layernorm",), ("layernorm", "moe_act")]),
        ("deepseek-v3", [("layernorm",), ("layernorm", "moe_act"), ("layernorm", "moe_act", "mla_up_proj")]),
    ],
)
def test_prefixes_of_what_pays(model: str, sets: list[tuple[str, ...]]) -> None:
    training = TrainingSpec(seq_len=4096, global_batch=8, stack="megatron-core")
    assert module_sets(load_model(model), training, op_times(load_cluster("h100-sxm:8"), training)) == sets


def test_the_attention_core_pays_where_its_scores_are_kept() -> None:
    training = TrainingSpec(seq_len=2048, global_batch=8, stack="megatron-core", attention="unfused")
    found = module_sets(load_model("gpt3-175b"), training, op_times(load_cluster("a100-sxm-80gb:8"), training))
    assert set(found[-1]) == {"layernorm", "core_attn"}
