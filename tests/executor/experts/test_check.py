"""Expert parallelism refuses, in one line, what it cannot spread."""

from typing import Any

import pytest

from shardwright.base.errors import SpecError
from shardwright.executor.experts import check_experts, experts_paths
from shardwright.executor.model import read_skeleton
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.families import FAMILIES


def _check(config: dict[str, Any], **degrees: Any) -> None:
    file = plan_file(config, plan((layers(zero=1),), microbatches=1, **degrees))
    check_experts(file, read_skeleton(file))


def _refusal(config: dict[str, Any], **degrees: int) -> str:
    with pytest.raises(SpecError) as caught:
        _check(config, **degrees)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss", "deepseek_v2", "deepseek_v3"])
def test_families_with_experts_are_spread(family: str) -> None:
    _check(FAMILIES[family], dp_shard=4, ep=2)
    _check(FAMILIES[family], dp_shard=2, tp=2, ep=2)


def test_dense_layers_of_a_model_with_experts_have_none() -> None:
    file = plan_file(FAMILIES["deepseek_v3"], plan((layers(),)))
    skeleton = read_skeleton(file)
    assert [experts_paths(skeleton.layer(index)) for index in range(2)] == [[], ["mlp.experts"]]


def test_a_model_without_experts() -> None:
    assert "has no experts that ep 2 could spread; plan with ep 1" in _refusal(model_config("llama"), dp_shard=2, ep=2)


def test_a_degree_that_does_not_divide_the_experts() -> None:
    assert "has 4 experts in 'mlp.experts' of a layer, which ep 8 does not divide" in _refusal(
        FAMILIES["mixtral"], dp_shard=8, ep=8
    )


def test_experts_whose_columns_cannot_be_shared() -> None:
    _check(FAMILIES["qwen3_moe"], dp_shard=2, tp=2, ep=2, etp=2)
    says = _refusal(FAMILIES["gpt_oss"], dp_shard=2, tp=2, ep=2, etp=2)
    assert "2 ranks cannot share the columns of GptOssExperts; plan with an ep that is a multiple of tp 2" in says


def test_ranks_that_cannot_shard_experts_evenly() -> None:
    config = FAMILIES["mixtral"] | {"hidden_size": 28, "intermediate_size": 44}
    file = plan_file(config, plan((layers(zero=1),), microbatches=1, global_batch=16, dp_shard=16, ep=2))
    skeleton = read_skeleton(file)
    with pytest.raises(SpecError, match="8 ranks that hold the same experts cannot shard them evenly"):
        check_experts(file, skeleton)
