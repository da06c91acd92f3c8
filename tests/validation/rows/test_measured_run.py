"""A whole row as a run: what it measured, precision, attention, and what was assumed on the way."""

import pytest

from shardwright.specs.training import Precision
from shardwright.validation.rows.measured_run import measured_run
from shardwright.validation.rows.memory_reading import MemoryReading
from shardwright.validation.rows.metrics import MeasuredStep, Metric, NoStep
from tests.validation.fake_costs import standard_node
from tests.validation.made_up_rows import row, run, skipped


def test_a_complete_row_is_one_run() -> None:
    found = run(interconnect="400 Gb/s RDMA per GPU")
    assert (found.model.layer_count, found.cluster.devices, len(found.readings)) == (40, 64, 1)
    assert (found.training.seq_len, found.training.global_batch) == (4096, 128)
    assert found.assumptions == ()


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
    assert run(precision=stated, notes=notes).training.precision == precision


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
    found = run(attention=stated)
    assert found.training.attention == kernel
    assert ("fused attention" in found.assumptions) is assumed


def test_assumptions_of_every_part_are_kept() -> None:
    unknown: dict[str, object] = dict.fromkeys(("attention", "kv_heads", "micro_batch", "gpus_per_node", "framework"))
    found = run(**unknown, model="Llama-like-13B", tp=8, dp=8)
    assert found.assumptions == (
        "as many key-value heads as heads",
        "fused attention",
        "framework unknown: PyTorch FSDP with fused layers",
        "sequence parallelism beside tensor parallelism",
        "devices per node of the standard node",
        "network of the standard node",
    )
    assert found.unknown == ("micro batch",)


@pytest.mark.parametrize(
    ("precision", "not_read", "attention"),
    [("BF16", "attention", "unfused"), ("TE BF16", "attention", "flash"), ("BF16", None, "flash")],
)
def test_paxml_has_fused_attention_from_transformer_engine_alone(
    precision: str, not_read: str | None, attention: str
) -> None:
    """Where the table guessed; what its document states stands."""
    found = run(framework="Paxml", attention="flash", precision=precision, fields_not_read=not_read)
    assert found.training.attention == attention


def test_attention_before_fused_kernels_existed_was_not_fused() -> None:
    found = run(attention=None, year=2021)
    assert found.training.attention == "unfused"
    assert "unfused attention, as of its year" in found.assumptions


def test_the_framework_is_the_stack() -> None:
    assert run(framework="Megatron-Core r0.8.0").training.stack == "megatron-core-0.8"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"reason": "token-drop MoE run"}, "token-drop MoE run"),
        ({"settings": "trainable=lora:r=many"}, "rank 'many' is no whole number"),
        ({"settings": "optimizer_states=8bit"}, "less than 16 bits"),
        ({"precision": "int4"}, "precision 'int4' is not known"),
        ({"attention": "magic"}, "attention 'magic' is not known"),
        ({"global_batch": None, "pp": 2, "dp": 32, "metric_name": "s_per_iter"}, "global_batch unknown"),
        ({"seq_len": None, "metric_name": "s_per_iter"}, "seq_len unknown"),
    ],
)
def test_what_is_no_run_says_why(changes: dict[str, object], reason: str) -> None:
    assert reason in skipped(**changes).reason


def test_what_was_measured_is_read_once() -> None:
    found = run(peak_mem_gb=50.0, framework="nanotron v0.5", notes="as published")
    assert (found.id, found.source, found.framework) == ("llama-1", "someone/bench README.md", "nanotron")
    assert (found.unit, found.value, found.memory_bytes) == ("tokens/s/GPU", 2162.0, 50e9)
    assert found.step == MeasuredStep(Metric("tokens_per_s_per_gpu", 8192.0, is_rate=True), 8192 / 2162)
    assert found.memory_reading == MemoryReading("reserved", first_node=False)
    assert (found.device, found.notes) == ("A100-SXM-80GB", "as published")
    assert found.job == "Llama-2-13B, 64 x A100-SXM-80GB, bf16, batch 128 x 4096 tokens"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metric_value": None}, "metric_value unknown"),
        ({"metric_name": "peak_mem_gb"}, "memory only: the row has no step time"),
        ({"metric_name": "joules"}, "metric 'joules' is not known"),
    ],
)
def test_a_run_without_a_step_time_says_why_and_keeps_its_memory(changes: dict[str, object], reason: str) -> None:
    found = run(peak_mem_gb=50.0, **changes)
    assert found.step == NoStep(reason)
    assert found.memory_bytes == 50e9
    assert found.memory_reading is not None


def test_a_row_that_is_no_run_keeps_what_it_reports() -> None:
    found = skipped(reason="token-drop MoE run", peak_mem_gb=50.0, framework="nanotron v0.5")
    assert (found.id, found.source, found.framework, found.core) == (
        "llama-1",
        "someone/bench README.md",
        "nanotron",
        False,
    )
    assert (found.unit, found.value, found.memory_bytes) == ("tokens/s/GPU", 2162.0, 50e9)


@pytest.mark.parametrize(
    ("changes", "core"),
    [
        ({}, True),
        ({"framework": None, "gpu": None}, True),
        ({"framework": "nanotron v0.5"}, False),
        ({"framework": "Megatron-LM + DeepSpeed ZeRO-3", "zero_or_fsdp": "3"}, False),
        ({"framework": "Megatron-DeepSpeed", "zero_or_fsdp": "1"}, True),
        ({"gpu": "V100-SXM-32GB"}, False),
        ({"gpu": "H100-SXM-80GB", "framework": "Megatron-LM"}, True),
    ],
)
def test_which_runs_carry_a_target(changes: dict[str, object], core: bool) -> None:
    """Whether or not the rest of the row can be read."""
    assert measured_run(row(**changes), standard_node).core is core


def test_full_fine_tuning_is_training() -> None:
    found = run(reason="fine-tuning row")
    assert found.assumptions[0] == "full fine-tuning, every token of a sequence counted"


def test_settings_and_notes_give_the_formats_of_gradients_and_states() -> None:
    assert run(settings="grad_reduce=bf16").training.precision == Precision(gradients="bf16")
    assert run(settings="optimizer_states=bf16").training.precision == Precision(parameters="bf16")
    assert run(notes="pure bf16 states (torch_dtype bfloat16)").training.precision == Precision(
        gradients="bf16", parameters="bf16"
    )


@pytest.mark.parametrize(
    ("setting", "graphs"),
    [
        ("none", "none"),
        ("attn", "attention"),
        ("moe_router", "router"),
        ("attention+router", "attention+router"),
        ("whole_step", "whole"),
    ],
)
def test_settings_say_what_is_a_graph_and_what_overlaps(setting: str, graphs: str) -> None:
    found = run(settings=f"cuda_graphs={setting}; expert_overlap=1").training
    assert (found.cuda_graphs, found.overlaps_dispatch) == (graphs, True)
    assert (run().training.cuda_graphs, run().training.overlaps_dispatch) == ("none", False)


def test_settings_say_which_modules_run_again() -> None:
    made = {"framework": "Megatron-Core"}
    assert run(**made, settings="recompute_modules=moe_act+layernorm").training.recompute_modules == (
        "layernorm",
        "moe_act",
    )
    assert run(**made, settings="recompute_modules=none").training.recompute_modules == ()
    assert run(**made).training.recompute_modules == ()


@pytest.mark.parametrize(
    ("framework", "modules", "reason"),
    [
        ("Megatron-Core", "moe_act+norms", "recompute of module 'norms' is not known; known: core_attn, layernorm, "),
        ("HF Trainer", "layernorm", "stack hf-trainer names none; leave them out"),
    ],
)
def test_modules_that_no_layer_has_are_a_reason_to_skip(framework: str, modules: str, reason: str) -> None:
    assert reason in skipped(framework=framework, settings=f"recompute_modules={modules}").reason


def test_settings_say_how_many_layers_keep_their_activations_on_the_host() -> None:
    assert run(settings="activation_offload_layers=4").training.activation_offload_layers == 4
    assert run().training.activation_offload_layers == 0


def test_settings_say_how_many_layers_predict_later_tokens() -> None:
    assert run(settings="mtp_layers=2").training.mtp_layers == 2
    assert run().training.mtp_layers == 0


@pytest.mark.parametrize(
    ("settings", "taken"),
    [("dispatch=deepep", 20), ("dispatch=hybridep", 16), ("dispatch=all-to-all", None), (None, None)],
)
def test_the_dispatch_says_how_many_multiprocessors_it_takes(settings: str | None, taken: int | None) -> None:
    assert run(settings=settings).training.dispatch_multiprocessors == taken


def test_a_named_stack_is_the_rows_own() -> None:
    assert run(stack="megatron-core").training.stack == "megatron-core"
    assert "stack 'megatron-cor' is not known" in skipped(stack="megatron-cor").reason


def test_an_unknown_batch_is_one_microbatch_a_rank_where_tokens_are_counted_by_the_second() -> None:
    known = run(global_batch=None)
    assert known.training.global_batch == 128  # 64 ranks of two sequences
    assert "one microbatch on each rank" in known.assumptions
    assert run(global_batch=None, micro_batch=None).training.global_batch == 64 * 8
    assert run(global_batch=None, notes="batch 0.5M tokens").training.global_batch == 128  # 2^19 / 4096


def test_torchtitan_runs_the_micro_batch_of_its_configuration() -> None:
    """Its file for Llama 3 8B has 1, where 16 would fit; a batch that 4 ranks can't split so keeps the usual sizes."""
    given: dict[str, object] = {"framework": "torchtitan", "model": "Llama-3-8B", "params_b": 8.03, "micro_batch": None}
    known = run(**given, global_batch=None)
    assert (known.training.global_batch, known.readings[0].plan.micro_batch) == (64, 1)
    assert "micro batch 1, of torchtitan's configuration for this model" in known.assumptions
    assert run(**(given | {"framework": "PyTorch FSDP"}), global_batch=None).training.global_batch == 64 * 8


def test_an_unknown_batch_of_a_pipeline_is_four_million_tokens_in_whole_rounds() -> None:
    """4M tokens are 1024 sequences of 4096: 8 rounds of 32 ranks, 2 stages and micro batches of 2."""
    known = run(global_batch=None, pp=2, dp=32)
    assert known.training.global_batch == 1024
    assert "a batch of 4M tokens" in known.assumptions
    # of 131,072 tokens 32 sequences would do, but each rank needs 2 microbatches of 2 for its stages
    assert run(global_batch=None, pp=2, dp=32, seq_len=131072).training.global_batch == 128


def test_an_unknown_length_is_assumed_and_its_memory_not_compared() -> None:
    found = run(seq_len=None, peak_mem_gb=50.0)
    assert found.training.seq_len == 2048
    assert "sequences of 2048 tokens" in found.assumptions
    assert found.memory_reading is None


@pytest.mark.parametrize(
    ("framework", "source", "dropout"),
    [
        ("ms-swift 2.x (HF Trainer)", "modelscope/ms-swift README.md@abc line 1", True),
        ("HF Trainer", "foundation-model-stack/fms-acceleration refs.csv@abc line 1", True),
        ("HF Trainer", "someone/bench README.md@abc line 1", False),
    ],
)
def test_adapters_have_the_dropout_of_their_software(framework: str, source: str, dropout: bool) -> None:
    found = run(framework=framework, source=source, reason="LoRA/QLoRA row (kept apart)", zero_or_fsdp="none")
    assert found.training.trainable.dropout == dropout
    assert any("dropout before adapters" in assumption for assumption in found.assumptions) is dropout
