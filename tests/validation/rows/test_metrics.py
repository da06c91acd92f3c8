"""Each metric's step time by hand, from rows as published."""

import pytest

from shardwright.catalog.huggingface.load import load_model
from shardwright.specs.training import TrainingSpec
from shardwright.validation.rows.measured_run import MeasuredRun, measured_run
from shardwright.validation.rows.metrics import MeasuredStep, NoStep, counted_flops
from shardwright.validation.table.table import TableRow
from tests.validation.fake_costs import standard_node
from tests.validation.made_up_rows import row, run

SC21 = "SC21 eq 3: 96Bslh^2(1+s/6h+V/16lh), hardware FLOPs incl. recompute forward"
GPT_175B: dict[str, object] = {  # Narayanan et al. 2021, table 2, the PTD-P run on 384 devices
    "model": "GPT-174.6B",
    "params_b": 174.6,
    "layers": 96,
    "hidden": 12288,
    "heads": 96,
    "kv_heads": 96,
    "ffn_hidden": 49152,
    "vocab": 51200,
    "tied_embeddings": None,
    "seq_len": 2048,
    "gpus": 384,
    "tp": 8,
    "pp": 12,
    "dp": 4,
    "zero_or_fsdp": "0",
    "micro_batch": 1,
    "global_batch": 1536,
    "recompute": "full",
    "precision": "mixed half",
    "metric_name": "tflops_per_gpu",
    "metric_value": 153.0,
    "metric_unit": "TFLOP/s/GPU",
    "flops_convention": SC21,
}
NANOTRON: dict[str, object] = {  # nanotron-001 of the published table
    "model": "Llama-like-1.34B",
    "params_b": 1.34,
    "layers": 16,
    "hidden": 2048,
    "heads": 32,
    "kv_heads": 32,
    "ffn_hidden": 8192,
    "vocab": 131072,
    "seq_len": 4096,
    "gpu": "H100-SXM-80GB",
    "gpus": 512,
    "tp": 2,
    "pp": 2,
    "dp": 128,
    "zero_or_fsdp": "1",
    "micro_batch": 2,
    "global_batch": 256,
    "metric_name": "mfu_pct",
    "metric_value": 5.25,
    "metric_unit": "MFU%",
    "flops_convention": "nanotron get_flops_per_sec (Megatron model FLOPs), peak 989 TFLOP/s assumed",
}


def _step(given: TableRow) -> MeasuredStep:
    found = measured_run(given, standard_node)
    assert isinstance(found, MeasuredRun), found
    assert isinstance(found.step, MeasuredStep), found.step
    return found.step


def _step_seconds(given: TableRow) -> float:
    return _step(given).seconds


def test_tokens_per_second_and_device() -> None:
    # 128 sequences of 4096 tokens on 64 devices: 8192 tokens a device
    assert _step_seconds(row()) == pytest.approx(8192 / 2162)


def test_tokens_per_second_in_total() -> None:
    assert _step_seconds(row(metric_name="tokens_per_s_total", metric_value=100000)) == pytest.approx(5.24288)


def test_seconds_per_iteration() -> None:
    assert _step_seconds(row(metric_name="s_per_iter", metric_value=3.5)) == 3.5


def test_milliseconds_per_iteration() -> None:
    assert _step_seconds(row(metric_name="ms_per_iter", metric_value=3500)) == pytest.approx(3.5)


def test_sequences_per_second() -> None:
    assert _step_seconds(row(metric_name="sequences_per_s", metric_value=32)) == 4.0


def test_sc21_teraflops_count_the_recomputed_forward() -> None:
    batch, s, layers, h, vocabulary = 1536, 2048, 96, 12288, 51200
    flops = 96 * batch * s * layers * h**2 * (1 + s / (6 * h) + vocabulary / (16 * layers * h))
    assert _step_seconds(row(**GPT_175B)) == pytest.approx(flops / (384 * 153e12), rel=1e-12)
    # the same row of the paper says 84 days for 300 billion tokens
    steps = 300e9 / (batch * s)
    assert steps * _step_seconds(row(**GPT_175B)) / 86400 == pytest.approx(84, rel=0.01)


def test_sc21_teraflops_without_recompute_count_three_passes() -> None:
    layers, head = 24 * 12288**2 + 4 * 2048 * 12288, 2 * 12288 * 51200
    flops = 1536 * 2048 * (3 * 96 * layers + 3 * head)
    without = row(**(GPT_175B | {"recompute": "none"}))
    assert _step_seconds(without) == pytest.approx(flops / (384 * 153e12))


def test_mfu_uses_the_peak_that_its_source_used() -> None:
    # by hand, gated feed-forward and full attention: 8 h^2 + 6 h f + 4 s h a layer and token, 2 h V for the head
    forward = 16 * (8 * 2048**2 + 6 * 2048 * 8192 + 4 * 4096 * 2048) + 2 * 2048 * 131072
    flops = 3 * forward * 256 * 4096
    assert _step_seconds(row(**NANOTRON)) == pytest.approx(flops / (512 * 989e12 * 0.0525), rel=1e-12)


def test_mfu_without_a_stated_peak_uses_the_device() -> None:
    stated = _step_seconds(row(**NANOTRON))
    own = _step_seconds(row(**(NANOTRON | {"flops_convention": "model FLOPs"})))
    assert own == pytest.approx(stated * 989 / 1000)


def test_llm_foundry_flops_are_six_times_parameters_and_attention_in_full() -> None:
    given = row(metric_name="mfu_pct", metric_value=50, flops_convention="6*N*T + 12*L*d*T^2 per seq, peak 312 TFLOP/s")
    flops = 128 * (6 * 13_015_864_320 * 4096 + 12 * 40 * 5120 * 4096**2)
    assert _step_seconds(given) == pytest.approx(flops / (64 * 312e12 * 0.5), rel=1e-12)


@pytest.mark.parametrize(
    "framework", ["NeMo 24.07", "Megatron-Core 0.8", "Megatron-Bridge", "torchtitan", "Megatron-LM"]
)
def test_teraflops_of_megatron_and_torchtitan_are_model_flops(framework: str) -> None:
    given = {"metric_name": "tflops_per_gpu", "metric_value": 300.0, "framework": framework, "year": 2024}
    stated = row(**given, flops_convention="model FLOPs")
    assert _step_seconds(row(**given)) == _step_seconds(stated)


def test_six_n_alone_counts_no_attention() -> None:
    given = row(metric_name="tflops_per_gpu", metric_value=100, flops_convention="6ND")
    assert _step_seconds(given) == pytest.approx(6 * 13_015_864_320 * 128 * 4096 / (64 * 100e12), rel=1e-12)


def test_an_mfu_of_which_nothing_is_said_counts_model_flops() -> None:
    stated = row(metric_name="mfu_pct", metric_value=50, flops_convention="model FLOPs")
    assert _step_seconds(row(metric_name="mfu_pct", metric_value=50)) == _step_seconds(stated)


def test_of_experts_those_that_a_token_uses_are_counted() -> None:
    model = load_model("mixtral-8x7b")
    training = TrainingSpec(seq_len=4096, global_batch=2)
    given = row(metric_name="tflops_per_gpu", flops_convention="6ND")
    assert counted_flops(given, model, training) == 6.0 * model.active_parameter_count * 8192
    by_layers = counted_flops(row(metric_name="tflops_per_gpu", flops_convention="model FLOPs"), model, training)
    assert by_layers == pytest.approx(6.0 * model.active_parameter_count * 8192, rel=0.08)


def test_bigscience_flops_are_eight_times_parameters() -> None:
    given = row(metric_name="tflops_per_gpu", metric_value=100, flops_convention="size*4*2*seq*GBS (recompute counted)")
    assert _step_seconds(given) == pytest.approx(8 * 13_015_864_320 * 128 * 4096 / (64 * 100e12), rel=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        "tokens_per_s_per_gpu",
        "tokens_per_s_total",
        "s_per_iter",
        "ms_per_iter",
        "sequences_per_s",
        "samples_per_s_per_gpu",
        "steps_per_s",
    ],
)
def test_value_and_seconds_are_inverse(name: str) -> None:
    metric = _step(row(metric_name=name)).metric
    assert metric.name == name
    assert metric.value(metric.step_seconds(123.4)) == pytest.approx(123.4)
    assert metric.value(2.0) == pytest.approx(metric.value(1.0) * (0.5 if metric.is_rate else 2.0))


def test_tokens_per_second_of_unstated_scope() -> None:
    assert _step_seconds(
        row(metric_name="tokens_per_s", metric_value=8192, gpus=1, dp=1, global_batch=2, zero_or_fsdp="0")
    ) == pytest.approx(1.0)
    assert run(metric_name="tokens_per_s").step == NoStep("tokens/s: per device or in total is not stated")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metric_name": "peak_mem_gb"}, "memory only"),
        ({"metric_name": "ms_fwd_bwd_one_layer"}, "not a training step"),
        ({"metric_name": "joules"}, "metric 'joules' is not known"),
        ({"metric_name": None}, "metric_name unknown"),
        ({"metric_name": "tflops_per_gpu", "framework": "InHouse"}, "how the source counts FLOPs is not known"),
        (
            {"metric_name": "tflops_per_gpu", "framework": "Megatron-LM", "year": 2022},
            "how the source counts FLOPs is not known",
        ),
        (
            {"metric_name": "tflops_per_gpu", "framework": "Megatron-DeepSpeed", "year": 2024},
            "how the source counts FLOPs is not known",
        ),
        (
            {"metric_name": "tflops_per_gpu", "framework": "InHouse", "flops_convention": "as usual"},
            "how the source counts FLOPs",
        ),
    ],
)
def test_what_cannot_be_converted_says_why(changes: dict[str, object], reason: str) -> None:
    step = run(**changes).step
    assert isinstance(step, NoStep)
    assert reason in step.reason
