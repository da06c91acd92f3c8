"""Adapters beside weights in NF4: updates under plans are those of PEFT and bitsandbytes in one process, and a fault shows."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from peft import PeftModel
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from shardwright.costmodel.plan_file import PlanFile
from shardwright.executor.adapters import is_adapter, quantised
from shardwright.executor.export import ExportOptions, export_adapters, export_weights
from shardwright.executor.run.checks import check_plan
from tests.executor.export.test_merged import base, fine_tuned
from tests.executor.runs import losses, options, text_file
from tests.executor.training.test_adapters import FSDP, PIPELINE, adapted
from tests.parity import adapters
from tests.parity.adapters import adapter_engine, adapter_run, engine_adapter_runs, peft_run
from tests.parity.cases import layers, plan, plan_file
from tests.parity.families import FAMILIES
from tests.parity.updates import TOLERANCE, assert_equal_to, reference_model, worst_update_error
from tests.parity.worlds import run_in_turn, run_world

pytest.importorskip("bitsandbytes", reason="frozen weights in NF4 are packed by bitsandbytes, an extra of 125 MB")

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QLORA = "qlora:r=4"
PLANS = {
    "one rank": plan((layers(),)),
    "zero 0": plan((layers(),), dp_replicate=2),
    "zero 1": plan((layers(zero=1),), dp_shard=2),
    "zero 3": plan((layers(zero=3),), dp_shard=2),
    "pp": plan((layers(1),), (layers(1),), pp=2),
    "full recompute": plan((layers(zero=3, recompute="full"),), dp_shard=2),
    "hsdp": plan((layers(zero=3),), dp_shard=2, dp_replicate=2),
}


def quantised_model(given: PlanFile) -> nn.Module:
    """transformers' model with its linears as bitsandbytes replaces them, but the head."""
    from bitsandbytes.nn import Linear4bit

    model = reference_model(given)
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and path != "lm_head":
            linear = Linear4bit(
                module.in_features,
                module.out_features,
                bias=module.bias is not None,
                compute_dtype=torch.float32,
                quant_type="nf4",
            )
            linear.load_state_dict(module.state_dict())
            model.set_submodule(path, linear.to("cpu"))
    return model


def quantised_reference(given: PlanFile, folder: Path) -> Any:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(adapters, "reference_model", quantised_model)
        return peft_run(given, TARGETS, folder)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_updates_are_those_of_peft_beside_bitsandbytes(family: str, tmp_path: Path) -> None:
    """Qwen2's projections have biases."""
    files = {name: plan_file(FAMILIES[family], divided, trainable=QLORA) for name, divided in PLANS.items()}
    reference = quantised_reference(files["one rank"], tmp_path)
    for ranks in (1, 2, 4):
        of_size = {name: (file, tmp_path) for name, file in files.items() if file.plan.mesh.ranks == ranks}
        for file, _ in of_size.values():
            check_plan(file)
        for name, runs in run_in_turn(ranks, adapter_run, of_size).items():
            assert_equal_to(reference, runs, (family, name))


def forget_the_mean_of_scales() -> None:
    """Scales are restored without the mean that was taken off them."""
    original = quantised.restored

    def shifted(stored: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        changed = stored.clone()
        changed[: quantised.packed_sizes(shape.numel())[0]][-4:] = 0
        return original(changed, shape, dtype)

    quantised.restored = shifted


def leave_weights_as_they_are() -> None:
    """Weights keep their 32 bits."""
    quantised.packed = lambda weight: weight.flatten().view(torch.uint8)
    quantised.restored = lambda stored, shape, dtype: stored.clone().view(dtype).view(shape)


@pytest.mark.parametrize(
    ("name", "fault"), [("one rank", forget_the_mean_of_scales), ("zero 3", leave_weights_as_they_are)]
)
def test_a_fault_shows(name: str, fault: Callable[[], None], tmp_path: Path) -> None:
    given = plan_file(FAMILIES["llama"], PLANS[name], trainable=QLORA)
    reference = quantised_reference(given, tmp_path)
    assert worst_update_error(engine_adapter_runs(given, tmp_path, sabotage=fault), reference) > 20 * TOLERANCE


def test_a_run_resumes_under_another_plan_and_is_exported(tmp_path: Path) -> None:
    data, constant = text_file(tmp_path), {"min_learning_rate_fraction": 1.0, "warmup_steps": 0}
    start = base(tmp_path / "base")
    straight = losses(adapted(FSDP, QLORA), options(tmp_path / "whole", data=data, init_from=start, **constant))
    first = options(tmp_path / "first", data=data, steps=3, init_from=start, **constant)
    fine_tuned(adapted(FSDP, QLORA), first)
    checkpoint = first.out / "checkpoints/step-000003"
    again = options(tmp_path / "second", data=data, init_from=start, resume_from=checkpoint, **constant)
    assert losses(adapted(PIPELINE, QLORA), again) == pytest.approx(straight[3:], abs=2e-5)
    assert straight[-1] < straight[0]
    export_adapters(first.out, tmp_path / "adapters")
    export_weights(first.out, ExportOptions(to=tmp_path / "merged"))
    model = AutoModelForCausalLM.from_pretrained(start)
    merged = PeftModel.from_pretrained(model, tmp_path / "adapters").merge_and_unload().state_dict()
    for name, value in AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict().items():
        torch.testing.assert_close(value, merged[name], rtol=1e-5, atol=1e-6)


def held(given: PlanFile, folder: Path) -> list[tuple[str, torch.dtype, int, bool]]:
    """Of each frozen parameter: its name, format, bytes on all ranks, and whether data parallelism shards it."""
    engine = adapter_engine(given, folder)
    return [
        (name, value.dtype, value.numel() * value.element_size(), isinstance(value, DTensor))
        for part in engine.model_parts
        for name, value in part.named_parameters()
        if not is_adapter(name)
    ]


@pytest.mark.parametrize("zero", [1, 3])
def test_linears_lie_in_half_bytes_by_hand(zero: Literal[1, 3], tmp_path: Path) -> None:
    """Of a weight of 32 x 48: 768 bytes, 24 scales of a byte for 64 weights, one in fp32 for 256 of these, and their mean."""
    given = plan_file(FAMILIES["llama"], plan((layers(zero=zero),), dp_shard=2), compute="bf16", trainable=QLORA)
    quantised_reference(given, tmp_path)
    for found in run_world(2, held, given, tmp_path):
        linears = {name: (dtype, size, shards) for name, dtype, size, shards in found if "_proj" in name}
        assert len(linears) == 2 * 7
        assert linears["model.layers.0.mlp.up_proj.weight"] == (torch.uint8, 768 + 24 + 4 + 4, zero == 3)
        assert {dtype for name, dtype, *_ in found if name not in linears} == {torch.bfloat16}
