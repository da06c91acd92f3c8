"""Frameworks as sources write them: family and stack."""

import pytest

from shardwright.specs.stack import named_stack
from shardwright.validation.rows.stack import ZERO3, Software, software_of_row
from tests.validation.made_up_rows import row


@pytest.mark.parametrize(
    ("framework", "more", "family", "stack"),
    [
        ("llm-foundry (Composer, PyTorch FSDP)", {}, "llm-foundry", "fsdp"),
        ("torchtitan (PyTorch FSDP2)", {"notes": "2D + AsyncTP; torch.compile"}, "torchtitan", "torchtitan-async-tp"),
        ("torchtitan (PyTorch FSDP2)", {"notes": "vanilla TP; torch.compile"}, "torchtitan", "torchtitan"),
        ("torchtitan (PyTorch FSDP2)", {"notes": "FSDP; AC=full"}, "torchtitan", "torchtitan-eager"),
        ("torchtitan", {"notes": "float8nocompile prototype; bfloat16, eager"}, "torchtitan", "torchtitan-eager"),
        ("torchtitan", {"notes": "eager (no compile)"}, "torchtitan", "torchtitan-eager"),
        ("torchtitan", {"notes": "without torch.compile"}, "torchtitan", "torchtitan-eager"),
        ("torchtitan", {"notes": "float8nocompile prototype; torch.compile", "year": 2024}, "torchtitan", "torchtitan"),
        ("torchtitan", {"settings": "compile=1", "year": 2024}, "torchtitan", "torchtitan"),
        ("torchtitan", {"notes": "FSDP", "precision": "fp8 linear + bf16", "year": 2024}, "torchtitan", "torchtitan"),
        ("torchtitan", {"notes": "no compile", "precision": "fp8"}, "torchtitan", "torchtitan-eager"),
        ("HF Trainer", {"notes": "framework_config=baseline-peft-bnb", "gpus": 1}, "Hugging Face", "hf-kbit"),
        ("HF Trainer", {"notes": "framework_config=baseline-peft-bnb", "gpus": 2}, "Hugging Face", "hf-trainer"),
        ("HF Trainer", {"notes": "framework_config=accelerated-peft-bnb", "gpus": 1}, "Hugging Face", "hf-trainer"),
        ("Megatron-LM", {"year": 2021}, "Megatron-LM", "megatron-lm"),
        ("Megatron-LM", {"year": 2025}, "Megatron-LM", "megatron-core"),
        ("Megatron-LM (PTD-P)", {}, "Megatron-LM", "megatron-lm"),
        ("Megatron-LM (zero-bubble fork)", {"year": 2024}, "Megatron-LM", "megatron-zero-bubble"),
        ("Megatron-LM (vocabulary-parallel fork)", {"year": 2025}, "Megatron-LM", "megatron-zero-bubble"),
        ("Megatron-Core r0.8.0", {"year": 2024}, "Megatron-Core", "megatron-core-0.8"),
        ("Megatron-Core 0.4.0", {}, "Megatron-Core", "megatron-core-0.4"),
        ("Megatron-Core v0.12", {}, "Megatron-Core", "megatron-core-0.12"),
        ("mcore 0.13.1", {}, "Megatron-Core", "megatron-core"),
        ("Megatron-Core 0.16", {}, "Megatron-Core", "megatron-core-0.15"),
        ("Megatron-Core via Pai-Megatron-Patch", {"year": 2025}, "Megatron-Core", "megatron-core"),
        ("Megatron-Bridge", {}, "Megatron-Core", "nemo"),
        ("NeMo Megatron (launcher)", {"year": 2022}, "NeMo", "megatron-lm"),
        ("NeMo 1.x / Megatron-Core", {"year": 2024}, "NeMo", "nemo-25.02"),
        ("NeMo 2.x", {"year": 2025}, "NeMo", "nemo"),
        ("NeMo", {"year": 2025, "notes": "container nemo:24.12"}, "NeMo", "nemo-25.02"),
        ("NeMo 25.02", {"year": 2025}, "NeMo", "nemo-25.02"),
        ("NeMo 25.07", {"year": 2025}, "NeMo", "nemo"),
        ("levanter", {}, "Paxml, MaxText", "xla"),
        ("llama-recipes (PyTorch FSDP)", {}, "Hugging Face", "hf-trainer"),
        ("HF Trainer", {"notes": "framework_config=accelerated-peft-bnb-foak"}, "Hugging Face", "hf-fast-kernels"),
        ("nanotron v0.5", {}, "nanotron", "nanotron"),
        ("InternEvo", {"zero_or_fsdp": "1"}, "InternEvo", "internevo"),
        ("InternEvo", {"zero_or_fsdp": "fsdp-full"}, "InternEvo", "internevo-fsdp"),
        ("torchtitan", {"notes": "FSDP + torch.compile", "year": 2024}, "torchtitan", "torchtitan"),
        ("torchtitan", {"notes": "FSDP + torch.compile", "year": 2025}, "torchtitan", "torchtitan-compiled-loss"),
        ("Megatron-DeepSpeed", {"zero_or_fsdp": "1", "precision": "fp16"}, "Megatron-DeepSpeed", "megatron-deepspeed"),
        ("Megatron-DeepSpeed", {"precision": "fp16"}, "Megatron-DeepSpeed", "megatron-deepspeed"),
        ("Megatron-DeepSpeed", {"precision": "bf16"}, "Megatron-DeepSpeed", "megatron-deepspeed-bf16"),
        ("Megatron + DeepSpeed", {"zero_or_fsdp": "3", "year": 2021}, "DeepSpeed ZeRO-3", "deepspeed-zero3"),
        ("Megatron-LM + DeepSpeed ZeRO-3", {"zero_or_fsdp": None, "year": 2021}, "DeepSpeed ZeRO-3", "deepspeed-zero3"),
        ("HF Trainer + DeepSpeed", {"zero_or_fsdp": "zero_3", "year": 2021}, "DeepSpeed ZeRO-3", "deepspeed-zero3"),
        ("HF Trainer + DeepSpeed", {"zero_or_fsdp": "zero_3", "year": 2022}, "DeepSpeed ZeRO-3", "hf-deepspeed"),
        ("LLaMA-Factory (DeepSpeed)", {"zero_or_fsdp": "2"}, "DeepSpeed", "hf-deepspeed"),
        ("XTuner (DeepSpeed)", {"zero_or_fsdp": "3", "year": 2024}, "DeepSpeed ZeRO-3", "hf-deepspeed"),
        ("ms-swift 2.x", {}, "Hugging Face", "hf-trainer"),
        ("flash-attention training code", {}, "FlashAttention", "flash-attention"),
        ("Paxml (JAX, NVIDIA Rosetta)", {}, "Paxml, MaxText", "paxml"),
        ("MaxText (JAX, NVIDIA)", {}, "Paxml, MaxText", "xla"),
    ],
)
def test_family_and_stack(framework: str, more: dict[str, object], family: str, stack: str) -> None:
    assert software_of_row(row(framework=framework, **more)) == Software(family, stack)


@pytest.mark.parametrize(
    "framework",
    [
        *("TinyLlama (Lightning FSDP)", "picotron", "Colossal-AI 0.3", "DeepSpeed"),
        *("litgpt", "nanoGPT", "GPT-NeoX", "MindSpeed-LLM"),
    ],
)
def test_a_guess_says_what_it_rests_on(framework: str) -> None:
    software = software_of_row(row(framework=framework, zero_or_fsdp="1"))
    assert named_stack(software.stack).name == software.stack
    assert len(software.assumptions) == 1


def test_a_framework_that_nobody_knows_is_a_guess_and_its_own_family() -> None:
    assumed = "PyTorch FSDP with fused layers"
    named = Software("Trainerama 3", "fsdp", (f"framework 'Trainerama 3': {assumed}",))
    assert software_of_row(row(framework="Trainerama 3")) == named
    assert software_of_row(row(framework=None)) == Software("unknown", "fsdp", (f"framework unknown: {assumed}",))


def test_only_deepspeed_that_shards_parameters_is_zero3() -> None:
    assert software_of_row(row(framework="DeepSpeed", zero_or_fsdp="ZeRO-3")).family == ZERO3
    assert software_of_row(row(framework="DeepSpeed", zero_or_fsdp="2")).family == "DeepSpeed"
    assert software_of_row(row(framework="torchtitan", zero_or_fsdp="3")).family == "torchtitan"


@pytest.mark.parametrize(
    ("year", "mesh", "stack"),
    [
        (2025, {"tp": 2, "pp": 4, "dp": 8}, "megatron-core"),
        (2021, {"tp": 2, "pp": 4, "dp": 8}, "megatron-lm"),
        (2025, {"tp": 2, "dp": 32}, "fsdp"),
    ],
)
def test_an_unknown_framework_that_splits_tensors_and_layers_is_like_megatron(
    year: int, mesh: dict[str, object], stack: str
) -> None:
    found = software_of_row(row(framework="InHouse", year=year, **mesh))
    assert (found.family, found.stack) == ("InHouse", stack)
    assert found.assumptions[0].startswith("framework 'InHouse'")
