"""Adapters of each family: the linears that are charged, PEFT's initial values, merged weights, and what is refused."""

from typing import Any

import peft
import pytest
import torch

from shardwright.base.errors import SpecError
from shardwright.costmodel import adapter_parameters
from shardwright.costmodel.checks import check_tensor_parallel, check_trainable
from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.adapters import (
    AdapterSettings,
    DrawnAdapters,
    check_adapters,
    check_quantised,
    check_quantised_device,
    merged_weight,
    quantised,
)
from shardwright.executor.adapters.check import model_adapters
from shardwright.executor.adapters.layer import LinearSizes
from shardwright.executor.can_run import check_can_run
from shardwright.executor.model import read_skeleton
from shardwright.specs.plan import Offload
from tests.parity.cases import layers, plan, plan_file
from tests.parity.families import FAMILIES, OTHERS, UNDIVIDED

CPU = torch.device("cpu")
FUSED = {("phi3", "all-linear"), ("glm4", "all-linear"), ("falcon", "attention"), ("falcon", "all-linear")}
"""Several projections are one weight in transformers, and a matmul each in the estimate."""
UNGROUPED = {("longcat_flash", "all-linear")}
"""Its experts run one after the other."""


def adapted(family: str, trainable: str = "lora:r=4") -> PlanFile:
    return plan_file((FAMILIES | OTHERS)[family], plan((layers(),)), trainable=trainable)


@pytest.mark.parametrize("family", sorted((FAMILIES | OTHERS).keys() - {"qwen3_next"}))
def test_the_linears_of_a_family_are_those_that_are_charged(family: str) -> None:
    """Unless one line refuses them."""
    for targets in ("attention", "all-linear"):
        given = adapted(family, f"lora:r=4,targets={targets}")
        skeleton = read_skeleton(given)
        if (family, targets) in FUSED | UNGROUPED:
            why = "does not run in grouped matmuls" if (family, targets) in UNGROUPED else "in the plan's estimate"
            with pytest.raises(SpecError, match=f"{why}.*; plan with"):
                check_adapters(given, skeleton)
        else:
            check_can_run(given)
            check_adapters(given, skeleton)
            assert model_adapters(given, skeleton)


def test_adapters_of_experts_are_counted_by_hand() -> None:
    """Of a layer of tiny Mixtral: 4 experts of width 48 with gates and ups in one weight, rank 4, hidden 32."""
    given = adapted("mixtral", "lora:r=4,targets=mlp")
    sizes = model_adapters(given, read_skeleton(given))
    assert sizes == {
        f"model.layers.{index}.mlp.experts{place}": found
        for index in (0, 1)
        for place, found in ((".base_layer", LinearSizes(32, (96,), 4)), ("", LinearSizes(48, (32,), 4)))
    }
    assert adapter_parameters(given.model(), given.training) == 2 * 4 * 4 * (32 + 96 + 48 + 32)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            plan_file(UNDIVIDED["llama4_text"], plan((layers(),)), trainable="lora:r=4"),
            "Llama4TextExperts ('feed_forward.experts' of a layer) does not run in grouped matmuls, where its adapters would be; "
            "plan with --trainable lora:r=4,targets=attention",
        ),
        (
            plan_file(FAMILIES["mixtral"], plan((layers(),)), compute="bf16", trainable="lora:r=12,targets=mlp"),
            "rank 12, and grouped matmuls in bf16 take multiples of 8; plan with --trainable lora:r=16,targets=mlp",
        ),
        (
            plan_file(
                FAMILIES["mixtral"] | {"hidden_size": 36, "head_dim": 12},
                plan((layers(zero=1),), dp_shard=10, ep=2, microbatches=1, global_batch=10),
                trainable="lora:r=8",
            ),
            "5 ranks that hold the same experts cannot shard their adapters of rank 8 evenly; give a rank that 5 divides",
        ),
    ],
)
def test_adapters_of_experts_that_do_not_run_are_refused_in_one_line(given: PlanFile, words: str) -> None:
    with pytest.raises(SpecError) as raised:
        check_adapters(given, read_skeleton(given))
    assert words in str(raised.value)


def test_initial_values_are_those_of_peft() -> None:
    """The same distribution: uniform within 1 / sqrt(inputs). PEFT draws them in another order."""
    settings = AdapterSettings(rank=4, alpha=4)
    down, up = DrawnAdapters(settings, 7, CPU).of("model.layers.0.mlp.up_proj", 32, 48)
    assert down.shape == (4, 32)
    assert not up.any()
    again, _ = DrawnAdapters(settings, 7, CPU).of("model.layers.0.mlp.up_proj", 32, 48)
    other, _ = DrawnAdapters(settings, 7, CPU).of("model.layers.1.mlp.up_proj", 32, 48)
    assert torch.equal(down, again)
    assert not torch.equal(down, other)
    theirs: Any = peft.tuners.lora.Linear(torch.nn.Linear(32, 48), "default", peft.LoraConfig(r=4), r=4, lora_alpha=4)
    bound = float(theirs.lora_A["default"].weight.detach().abs().max())
    assert down.abs().max() <= 32**-0.5
    assert float(down.abs().max()) == pytest.approx(bound, rel=0.1)


def test_a_merged_weight_is_that_of_peft() -> None:
    torch.manual_seed(0)
    base = torch.nn.Linear(6, 10)
    theirs: Any = peft.tuners.lora.Linear(
        base, "default", peft.LoraConfig(r=2), r=2, lora_alpha=3, init_lora_weights=False
    )
    down, up = (getattr(theirs, name)["default"].weight for name in ("lora_A", "lora_B"))
    own = merged_weight(base.weight.detach(), down, up, AdapterSettings(rank=2, alpha=3).scale)
    transposed = merged_weight(base.weight.detach().T, down, up, 1.5, transposed=True)
    theirs.merge()
    torch.testing.assert_close(own, base.weight)
    torch.testing.assert_close(transposed.T, base.weight)


@pytest.mark.parametrize(
    ("family", "trainable", "words"),
    [
        (
            "mixtral",
            "qlora:r=4",
            "frozen experts in nf4 can be estimated and compared, not run yet; plan with lora, whose",
        ),
        (
            "llama",
            "lora:r=4,base=int8",
            "frozen weights in int8 can be estimated and compared, not run yet; plan with qlora",
        ),
        ("llama", "lora:r=4,dropout=yes", "dropout of adapters can be estimated and compared, not run yet; leave out"),
        ("qwen3_next", "lora:r=4,targets=attention", "adapters of linear attention can be estimated"),
    ],
)
def test_what_does_not_run_is_refused_in_one_line(family: str, trainable: str, words: str) -> None:
    with pytest.raises(SpecError) as raised:
        check_can_run(adapted(family, trainable))
    assert words in str(raised.value)


def test_weights_in_nf4_run_without_tp_and_where_the_package_is(monkeypatch: pytest.MonkeyPatch) -> None:
    given = plan_file(FAMILIES["llama"], plan((layers(),), tp=2), trainable="qlora:r=4")
    with pytest.raises(SpecError, match=r"frozen weights in nf4 over tp 2 .*, not run yet; plan with --tp 1"):
        check_can_run(given)
    for family, name in (("gpt2", "attn.c_attn"), ("phi3", "self_attn.qkv_proj"), ("glm4", "mlp.gate_up_proj")):
        fused = plan_file(FAMILIES[family], plan((layers(),)), trainable="qlora:r=4")
        with pytest.raises(SpecError, match=rf"'{name}' of a layer is several linears in one weight, .* lora:r=4"):
            check_quantised(fused, read_skeleton(fused))
        with pytest.raises(
            SpecError, match=r"several linears in one weight, .* in stack shardwright; give --trainable lora"
        ):
            check_trainable(fused.model(), fused.training)
    own, skeleton = adapted("llama", "qlora:r=4"), read_skeleton(adapted("llama"))
    check_can_run(own)
    monkeypatch.setattr(quantised, "find_spec", lambda name: None)
    with pytest.raises(
        SpecError, match=r"bitsandbytes, which is not installed; pip install '.\[quantized\]', or plan with"
    ):
        check_quantised(own, skeleton)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (5, 2))
    with pytest.raises(SpecError, match=r"need a GPU of compute capability 6\.0, this one has 5\.2; plan with lora"):
        check_quantised_device(own.training.trainable, torch.device("cuda"))
    check_quantised_device(own.training.trainable, CPU)


def test_the_planner_offers_this_executor_no_tp_beside_nf4_nor_frozen_experts_in_it() -> None:
    given = adapted("llama", "qlora:r=4")
    check_trainable(given.model(), given.training)
    with pytest.raises(SpecError, match="tp 2 does not divide frozen weights in nf4 in stack shardwright; set tp 1"):
        check_tensor_parallel(2, given.model(), given.training, sequence_parallel=True)
    with pytest.raises(SpecError, match="runs frozen weights in compute, nf4, not in int8; choose one of these"):
        check_trainable(given.model(), adapted("llama", "lora:r=4,base=int8").training)
    with pytest.raises(SpecError, match="runs no frozen experts in nf4; give --trainable lora, or choose another"):
        check_trainable(adapted("mixtral").model(), given.training)
    megatron = given.training.model_copy(update={"stack": "hf-trainer"})
    check_tensor_parallel(2, given.model(), megatron, sequence_parallel=True)


def test_no_weights_are_streamed_beside_frozen_ones() -> None:
    given = adapted("llama")
    moved = given.plan.model_copy(update={"offload": Offload(optimizer_fraction=1, parameter_fraction=0.5)})
    with pytest.raises(SpecError, match=r"streamed weights beside frozen ones .* plan with --offload-parameters 0"):
        check_can_run(given.model_copy(update={"plan": moved}))
