"""Frameworks as sources write them: family and stack."""

import pytest

from shardwright.specs.stack import named_stack
from shardwright.validation.rows.stack import framework_family, is_deepspeed_zero3, stack_of_row
from tests.validation.made_up_rows import row


@pytest.mark.parametrize(
    ("framework", "more", "family", "stack"),
    [
        ("llm-foundry (Composer, PyTorch FSDP)", {}, "llm-foundry", "fsdp"),
        ("torchtitan (PyTorch FSDP2)", {"notes": "2D + AsyncTP; torch.compile"}, "torchtitan", "torchtitan-async-tp"),
        ("torchtitan (PyTorch FSDP2)", {"notes": "vanilla TP; torch.compile"}, "torchtitan", "torchtitan"),
        ("torchtitan (PyTorch FSDP2)", {"notes": "FSDP; AC=full"}, "torchtitan", "torchtitan-eager"),
        ("Megatron-LM", {"year": 2021}, "Megatron-LM", "megatron-lm"),
        ("Megatron-LM", {"year": 2025}, "Megatron-LM", "megatron-core"),
        ("Megatron-LM (PTD-P)", {}, "Megatron-LM", "megatron-lm"),
        ("Megatron-Core r0.8.0", {"year": 2024}, "Megatron-Core", "megatron-core"),
        ("Megatron-Bridge", {}, "Megatron-Core", "megatron-core"),
        ("NeMo Megatron (launcher)", {"year": 2022}, "NeMo", "megatron-lm"),
        ("NeMo 1.x / Megatron-Core", {"year": 2024}, "NeMo", "megatron-core"),
        ("nanotron v0.5", {}, "nanotron", "nanotron"),
        ("InternEvo", {"zero_or_fsdp": "1"}, "InternEvo", "internevo"),
        ("InternEvo", {"zero_or_fsdp": "fsdp-full"}, "InternEvo", "internevo-fsdp"),
        ("torchtitan", {"notes": "FSDP + torch.compile", "year": 2024}, "torchtitan", "torchtitan"),
        ("torchtitan", {"notes": "FSDP + torch.compile", "year": 2025}, "torchtitan", "torchtitan-compiled-loss"),
        ("Megatron-DeepSpeed", {"zero_or_fsdp": "1"}, "Megatron-DeepSpeed", "megatron-deepspeed"),
        ("Megatron + DeepSpeed", {"zero_or_fsdp": "3"}, "DeepSpeed ZeRO-3", "deepspeed-zero3"),
        ("Megatron-LM + DeepSpeed ZeRO-3", {"zero_or_fsdp": None}, "DeepSpeed ZeRO-3", "deepspeed-zero3"),
        ("HF Trainer + DeepSpeed", {"zero_or_fsdp": "zero_3"}, "DeepSpeed ZeRO-3", "deepspeed-zero3"),
        ("Paxml (JAX, NVIDIA Rosetta)", {}, "Paxml, MaxText", "xla"),
        ("MaxText (JAX, NVIDIA)", {}, "Paxml, MaxText", "xla"),
    ],
)
def test_family_and_stack(framework: str, more: dict[str, object], family: str, stack: str) -> None:
    given = row(framework=framework, **more)
    assert framework_family(given) == family
    assert stack_of_row(given) == (stack, [])


@pytest.mark.parametrize("framework", ["TinyLlama (Lightning FSDP)", "HF Trainer", "Colossal-AI 0.3", "DeepSpeed"])
def test_a_guess_says_what_it_rests_on(framework: str) -> None:
    stack, assumptions = stack_of_row(row(framework=framework, zero_or_fsdp="1"))
    assert named_stack(stack).name == stack
    assert len(assumptions) == 1


def test_a_framework_that_nobody_knows_is_a_guess_and_its_own_family() -> None:
    given = row(framework="Trainerama 3")
    assert framework_family(given) == "Trainerama 3"
    assert stack_of_row(given) == ("fsdp", ["framework 'Trainerama 3': PyTorch FSDP with fused layers"])
    assert framework_family(row(framework=None)) == "unknown"
    assert stack_of_row(row(framework=None))[1] == ["framework unknown: PyTorch FSDP with fused layers"]


def test_only_deepspeed_that_shards_parameters_is_zero3() -> None:
    assert is_deepspeed_zero3(row(framework="DeepSpeed", zero_or_fsdp="ZeRO-3"))
    assert not is_deepspeed_zero3(row(framework="DeepSpeed", zero_or_fsdp="2"))
    assert not is_deepspeed_zero3(row(framework="torchtitan", zero_or_fsdp="3"))
