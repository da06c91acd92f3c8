"""A whole row as a run: precision, attention, and what was assumed on the way."""

import pytest

from shardwright.specs.training import Precision
from shardwright.validation.rows.setup import setup_of_row
from shardwright.validation.rows.table import SkippedRowError
from tests.validation.fake_costs import standard_node
from tests.validation.made_up_rows import row


def test_a_complete_row_is_one_run() -> None:
    setup = setup_of_row(row(interconnect="400 Gb/s RDMA per GPU"), standard_node)
    assert (setup.model.layer_count, setup.cluster.devices, len(setup.plans)) == (40, 64, 1)
    assert (setup.training.seq_len, setup.training.global_batch) == (4096, 128)
    assert setup.assumptions == ()


@pytest.mark.parametrize(
    ("stated", "notes", "precision"),
    [
        ("bf16", None, Precision(compute="bf16", gradients="fp32")),
        ("TE BF16", None, Precision(compute="bf16", gradients="fp32")),
        ("bf16", "grad_accum=1; MP mode=PURE; x", Precision(compute="bf16", gradients="bf16")),
        ("bf16", "grad_accum=1; MP mode=DEFAULT; x", Precision(compute="bf16", gradients="fp32")),
        ("fp16", None, Precision(compute="fp16", gradients="bf16")),
        ("mixed half", None, Precision(compute="fp16", gradients="bf16")),
        ('fp16/bf16 mixed ("half precision")', None, Precision(compute="fp16", gradients="bf16")),
        ("tf32", None, Precision(compute="tf32")),
        ("fp32", None, Precision(compute="fp32")),
    ],
)
def test_precision(stated: str, notes: str | None, precision: Precision) -> None:
    assert setup_of_row(row(precision=stated, notes=notes), standard_node).training.precision == precision


@pytest.mark.parametrize(
    ("stated", "kernel", "assumed"),
    [
        ("flash", "flash", False),
        ("TorchSDPA", "flash", False),
        ("FlashAttention-2", "flash", False),
        ("unfused", "unfused", False),
        ("eager", "unfused", False),
        ("TransformerEngine (cuDNN fused)", "flash", False),
        (None, "flash", True),
    ],
)
def test_attention(stated: str | None, kernel: str, assumed: bool) -> None:
    setup = setup_of_row(row(attention=stated), standard_node)
    assert setup.training.attention == kernel
    assert ("fused attention" in setup.assumptions) is assumed


def test_assumptions_of_every_part_are_kept() -> None:
    unknown: dict[str, object] = dict.fromkeys(("attention", "kv_heads", "micro_batch", "gpus_per_node", "framework"))
    setup = setup_of_row(row(**unknown, model="Llama-like-13B", tp=8, dp=8), standard_node)
    assert setup.assumptions == (
        "as many key-value heads as heads",
        "fused attention",
        "framework unknown: PyTorch FSDP with fused layers",
        "sequence parallelism beside tensor parallelism",
        "devices per node of the standard node",
        "network of the standard node",
    )
    assert setup.unknown == ("micro batch",)


def test_attention_before_fused_kernels_existed_was_not_fused() -> None:
    setup = setup_of_row(row(attention=None, year=2021), standard_node)
    assert setup.training.attention == "unfused"
    assert "unfused attention, as of its year" in setup.assumptions


def test_the_framework_is_the_stack() -> None:
    assert setup_of_row(row(framework="Megatron-Core r0.8.0"), standard_node).training.stack == "megatron-core"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"reason": "fine-tuning row"}, "fine-tuning row"),
        ({"precision": None}, "precision unknown"),
        ({"precision": "int4"}, "precision 'int4' is not known"),
        ({"attention": "magic"}, "attention 'magic' is not known"),
        ({"global_batch": None}, "global_batch unknown"),
        ({"seq_len": None}, "seq_len unknown"),
        ({"model": "Llama 3.1 8B (QLoRA)"}, "LoRA"),
    ],
)
def test_what_is_no_run_says_why(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(SkippedRowError, match=reason):
        setup_of_row(row(**changes), standard_node)
