"""Charges of a step in bytes, calls and FLOPs, by hand."""

import pytest

from shardwright.costmodel.charged import Charge, charged_step
from shardwright.costmodel.plan_file import PlanFile
from tests.parity.cases import layers, model_config, plan, plan_file
from tests.parity.families import FAMILIES

MICROBATCHES, LAYERS = 4, 2


def _charges(given: PlanFile) -> dict[tuple[str, str], Charge]:
    (rank,) = charged_step(given.model(), given.cluster, given.training, given.plan)
    return {(axis, name): charge for (axis, name), charge in rank.traffic.items()}


def test_sharding_is_charged_for_whole_weights_and_gradients() -> None:
    """ZeRO-3 gathers layers and embedding twice and the head once, in bf16, and reduces all in fp32, for each microbatch."""
    given = plan_file(
        model_config("llama"), plan((layers(zero=3),), microbatches=MICROBATCHES, dp_shard=2), compute="bf16"
    )
    model = given.model()
    head = sum(weight.elements for weight in model.head_parameters())
    found = _charges(given)
    assert found["dp", "all_gather"].size_bytes == MICROBATCHES * 2 * (2 * model.parameter_count - head)
    assert found["dp", "reduce_scatter"].size_bytes == MICROBATCHES * 4 * model.parameter_count
    assert found["dp", "all_gather"].calls == MICROBATCHES * (2 * (LAYERS + 1) + 1)


def test_tensor_parallelism_is_charged_for_hidden_states() -> None:
    """Four gathers and four reductions in each layer, one of each at both ends, where the embedding sums whole states."""
    given = plan_file(model_config("llama"), plan((layers(),), microbatches=MICROBATCHES, tp=2), compute="bf16")
    hidden_bytes = 2 * 2 * 16 * 32  # bf16, sequences, tokens, columns
    found = _charges(given)
    assert found["tp", "all_gather"] == Charge(
        MICROBATCHES * (4 * LAYERS + 2), MICROBATCHES * (4 * LAYERS + 2) * hidden_bytes
    )
    assert found["tp", "reduce_scatter"].calls == MICROBATCHES * (4 * LAYERS + 1)
    norms = 2 * LAYERS + 1  # fp32 gradients of 32 columns, once a step
    assert found["tp", "all_reduce"] == Charge(MICROBATCHES + norms, MICROBATCHES * hidden_bytes + norms * 4 * 32)


def test_latent_attention_sums_the_gradients_of_its_latents() -> None:
    """In place of those of hidden states: queries of 12 columns, keys and values of 16, rotary keys of 8. A layer of experts follows a dense one."""
    given = plan_file(
        FAMILIES["deepseek_v3"] | {"num_hidden_layers": 1},
        plan((layers(1),), microbatches=MICROBATCHES, tp=2),
        compute="bf16",
    )
    latents, hidden = (12 + 16 + 8) * 2 * 2 * 16, 32 * 2 * 2 * 16  # bf16, sequences, tokens
    found, norms = _charges(given)["tp", "all_reduce"], 3  # fp32 gradients of 32 columns, once a step
    assert found == Charge(MICROBATCHES * (1 + 3) + norms, MICROBATCHES * (hidden + latents) + norms * 4 * 32)


def test_a_device_that_hides_traffic_is_charged_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    given = plan_file(model_config("llama"), plan((layers(zero=2),), microbatches=MICROBATCHES, dp_shard=2, tp=2))
    node = given.cluster.node
    gpu = node.model_copy(update={"device": node.device.model_copy(update={"kind": "gpu", "multiprocessors": 100})})
    hiding = given.model_copy(update={"cluster": given.cluster.model_copy(update={"groups": (gpu,)})})
    assert _charges(hiding) == _charges(given)
