"""Adapters: updates under plans are those of PEFT in one process, and a fault of each kind shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.adapters import experts, is_adapter, layer
from shardwright.executor.experts import exchange as spread
from shardwright.executor.model import tensor_parallel
from shardwright.executor.run.checks import check_plan
from shardwright.specs.plan import Plan
from tests.parity import sabotage
from tests.parity.adapters import adapter_engine, adapter_run, engine_adapter_runs, peft_model, peft_run
from tests.parity.cases import layers, plan, plan_file
from tests.parity.families import FAMILIES
from tests.parity.updates import TOLERANCE, assert_equal_to, worst_update_error
from tests.parity.worlds import run_in_turn, run_world

ATTENTION, LINEARS = "lora:r=4,targets=attention", "lora:r=4"
LLAMA = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
GPT2 = ["c_attn", "c_proj", "c_fc"]
TARGETS = {
    "llama": (LINEARS, LLAMA),
    "qwen3": (LINEARS, LLAMA),
    "gpt2": (LINEARS, GPT2),
    "mixtral": (LINEARS, LLAMA),
}
PLANS = {
    "one rank": plan((layers(),)),
    "zero 0": plan((layers(),), dp_replicate=2),
    "zero 1": plan((layers(zero=1),), dp_shard=2),
    "zero 2": plan((layers(zero=2),), dp_shard=2),
    "zero 3": plan((layers(zero=3),), dp_shard=2),
    "tp": plan((layers(),), tp=2),
    "tp without sequence parallelism": plan((layers(),), tp=2, sequence_parallel=False),
    "pp": plan((layers(1),), (layers(1),), pp=2),
    "cp": plan((layers(),), cp=2),
    "4 ranks": plan((layers(zero=3, recompute="full"),), tp=2, dp_shard=2),
    "4 ranks, pipeline": plan((layers(1),), (layers(1),), pp=2, tp=2),
}


@pytest.mark.parametrize("family", TARGETS)
def test_updates_are_those_of_peft(family: str, tmp_path: Path) -> None:
    trainable, targets = TARGETS[family]
    files = {name: plan_file(FAMILIES[family], divided, trainable=trainable) for name, divided in PLANS.items()}
    reference = peft_run(files["one rank"], targets, tmp_path)
    for ranks in (1, 2, 4):
        of_size = {name: (file, tmp_path) for name, file in files.items() if file.plan.mesh.ranks == ranks}
        for file, _ in of_size.values():
            check_plan(file)
        for name, runs in run_in_turn(ranks, adapter_run, of_size).items():
            assert_equal_to(reference, runs, (family, name))


def lose_reductions_over_tp() -> None:
    """Whole matrices of adapters train on this rank's columns alone."""
    tensor_parallel._sums_adapter = lambda name, role: False


def forget_the_scale() -> None:
    """The product is added as it is."""
    original = layer._add_adapter

    def unscaled(module: nn.Module, scale: float) -> None:
        original(module, 1.0)

    layer._add_adapter = unscaled


FAULTS: dict[str, Callable[[], None]] = {
    "tp": lose_reductions_over_tp,
    "tp without sequence parallelism": lose_reductions_over_tp,
    "one rank": forget_the_scale,
    "zero 0": sabotage.skip_all_reduce,
    "zero 3": sabotage.forget_data_parallel_average,
    "pp": sabotage.lose_gradient_between_stages,
    "4 ranks": lose_reductions_over_tp,
    "4 ranks, pipeline": lose_reductions_over_tp,
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_shows(name: str, tmp_path: Path) -> None:
    given = plan_file(FAMILIES["llama"], PLANS[name], trainable=LINEARS)
    reference = peft_run(given, LLAMA, tmp_path)
    runs = engine_adapter_runs(given, tmp_path, sabotage=FAULTS[name])
    assert worst_update_error(runs, reference) > 20 * TOLERANCE


OTHERS: dict[str, tuple[Plan, dict[str, Any]]] = {
    "hsdp": (plan((layers(zero=3),), dp_shard=2, dp_replicate=2), {}),
    "loss in chunks": (plan((layers(zero=3),), dp_shard=2), {"loss_chunks": 2}),
    "loss in chunks over tp": (plan((layers(),), tp=2), {"loss_chunks": 2}),
    "feed-forward in tiles": (plan((layers(),), tp=2), {"mlp_tiles": 2}),
    "full recompute in a pipeline": (
        plan((layers(1, recompute="full"),), (layers(1, recompute="full"),), pp=2, microbatches=4),
        {},
    ),
    "modules again": (
        plan((layers(recompute="selective"),), tp=2),
        {"recompute_modules": ("layernorm", "mlp")},
    ),
    "ring": (plan((layers(zero=1),), cp=2, context_parallel="ring"), {}),
    "interleaved": (
        plan((layers(1),), (layers(1),), (layers(1),), (layers(1),), pp=2, schedule="interleaved-1f1b"),
        {},
    ),
    "zb-h1": (plan((layers(2),), (layers(2),), pp=2, schedule="zb-h1"), {}),
    "8 ranks": (plan((layers(2, zero=2),), (layers(2, zero=2),), pp=2, tp=2, dp_shard=2), {}),
}


@pytest.mark.parametrize("tied", [False, True])
def test_updates_are_those_of_peft_beside_other_choices(tied: bool, tmp_path: Path) -> None:
    wide = FAMILIES["llama"] | {"num_hidden_layers": 4, "tie_word_embeddings": tied}
    for four in (False, True):
        of_depth = {
            name: plan_file(wide if four else wide | {"num_hidden_layers": 2}, divided, trainable=LINEARS, **training)
            for name, (divided, training) in OTHERS.items()
            if (divided.layer_count == 4) == four
        }
        reference = peft_run(next(iter(of_depth.values())), LLAMA, tmp_path / str(four))
        for ranks in sorted({file.plan.mesh.ranks for file in of_depth.values()}):
            of_size = {
                name: (file, tmp_path / str(four)) for name, file in of_depth.items() if file.plan.mesh.ranks == ranks
            }
            for file, _ in of_size.values():
                check_plan(file)
            for name, runs in run_in_turn(ranks, adapter_run, of_size).items():
                assert_equal_to(reference, runs, name)


def test_updates_are_those_of_peft_with_compiled_layers(tmp_path: Path) -> None:
    files = {
        name: plan_file(FAMILIES["qwen3"], PLANS[name], trainable=LINEARS)
        for name in ("zero 3", "tp", "tp without sequence parallelism")
    }
    reference = peft_run(files["tp"], LLAMA, tmp_path)
    for name, runs in run_in_turn(
        2, adapter_run, {name: (file, tmp_path, True) for name, file in files.items()}
    ).items():
        assert_equal_to(reference, runs, name)


SPREAD: dict[str, Plan] = {
    "ep": plan((layers(zero=3),), dp_shard=2, ep=2),
    "ep over tp": plan((layers(),), tp=2, ep=2),
    "experts over tp": plan((layers(),), tp=2),
    "full recompute": plan((layers(zero=1, recompute="full"),), dp_shard=2, tp=2, ep=4),
    "shared experts": plan((layers(zero=2),), dp_shard=2, tp=2, ep=2, etp=2),
    "sharded experts": plan((layers(zero=3),), dp_shard=4, ep=2),
}
LATENT = [*LLAMA, "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj"]


def test_updates_beside_spread_experts_are_those_of_peft(tmp_path: Path) -> None:
    names = ("ep", "ep over tp", "experts over tp")
    files = {name: plan_file(FAMILIES["mixtral"], SPREAD[name], trainable=ATTENTION) for name in names}
    reference = peft_run(files["ep"], LLAMA[:4], tmp_path)
    for name, runs in run_in_turn(2, adapter_run, {name: (file, tmp_path) for name, file in files.items()}).items():
        assert_equal_to(reference, runs, name)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v3"])
def test_updates_of_adapters_of_experts_are_those_of_peft(family: str, tmp_path: Path) -> None:
    names = SPREAD if family == "mixtral" else ("ep", "experts over tp", "shared experts")
    files = {name: plan_file(FAMILIES[family], SPREAD[name], trainable=LINEARS) for name in names}
    reference = peft_run(files["ep"], LATENT, tmp_path)
    assert any("experts.base_layer.lora_A" in name for name in reference.after)
    for ranks in (2, 4):
        of_size = {name: (file, tmp_path) for name, file in files.items() if file.plan.mesh.ranks == ranks}
        for file, _ in of_size.values():
            check_plan(file)
        for name, runs in run_in_turn(ranks, adapter_run, of_size).items():
            assert_equal_to(reference, runs, (family, name))


def give_every_expert_the_first_adapter() -> None:
    """Tokens of all experts go through the adapter of the first."""
    owner: Any = experts
    original = owner._grouped_linear

    def first(rows: Tensor, weight: Tensor, offsets: Tensor, **options: Any) -> Tensor:
        adapter = "bias" not in options
        output: Tensor = original(rows, weight[:1].expand_as(weight) if adapter else weight, offsets, **options)
        return output

    owner._grouped_linear = first


def lose_reductions_over_shared_experts() -> None:
    """What ranks that share an expert hold whole trains on this rank's columns alone."""
    owner: Any = spread
    owner.Partial = Replicate


EXPERT_FAULTS: dict[str, Callable[[], None]] = {
    "ep": give_every_expert_the_first_adapter,
    "experts over tp": lose_reductions_over_tp,
    "shared experts": lose_reductions_over_shared_experts,
    "sharded experts": sabotage.average_experts_as_dense_layers,
}


@pytest.mark.parametrize("name", EXPERT_FAULTS)
def test_a_fault_in_adapters_of_experts_shows(name: str, tmp_path: Path) -> None:
    given = plan_file(FAMILIES["mixtral"], SPREAD[name], trainable="lora:r=4,targets=mlp")
    reference = peft_run(given, [], tmp_path)
    runs = engine_adapter_runs(given, tmp_path, sabotage=EXPERT_FAULTS[name])
    assert worst_update_error(runs, reference) > 20 * TOLERANCE


def formats_and_shards(given: PlanFile, folder: Path) -> list[tuple[bool, torch.dtype, bool]]:
    """Of each parameter: whether it is an adapter's, its format, and whether data parallelism shards it."""
    engine = adapter_engine(given, folder)
    return [
        (is_adapter(name), value.dtype, isinstance(value, DTensor))
        for part in engine.model_parts
        for name, value in part.named_parameters()
    ]


@pytest.mark.parametrize("zero", [1, 3])
def test_frozen_weights_lie_in_the_compute_format_and_whole_below_zero_3(zero: Literal[1, 3], tmp_path: Path) -> None:
    given = plan_file(FAMILIES["llama"], plan((layers(zero=zero),), dp_shard=2), compute="bf16", trainable=LINEARS)
    peft_model(given, LLAMA).save_pretrained(tmp_path)
    for found in run_world(2, formats_and_shards, given, tmp_path):
        assert {(dtype, shards) for adapter, dtype, shards in found if adapter} == {(torch.float32, True)}
        assert {(dtype, shards) for adapter, dtype, shards in found if not adapter} == {(torch.bfloat16, zero == 3)}
