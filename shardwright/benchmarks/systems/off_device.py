"""States, gradients and weights on the host."""

from shardwright.base import InfeasibleError
from shardwright.specs import Estimate, Precision, TrainingSpec

from .setups import FP16_GRADIENTS_TOO, Line, System, alone, gpt, planned, tflops


def _zero_offload() -> Line:
    """Ren et al. 2021, arXiv 2101.06840: one V100 of 32 GB of a DGX-2, 1,024 tokens."""
    on_host = {"offload_optimizer": 1, "offload_gradients": 1}
    large, small = _v100(50, 4096, 32, 4, **on_host), _v100(26, 2048, 16, 8)
    return Line(
        "13B with it and 1.4B without on 32 GB; 40 TFLOP/s at 10B, 30 at 1.4B",
        f"{_most(4096, 32, range(55, 100, 5), **on_host):.0f}B with it, {_most(2048, 16, range(20, 40)):.1f}B without; "
        f"{tflops(large):.0f} and {tflops(small):.0f} TFLOP/s",
        "The kernels of 2020 reached about half of what ours reach on a V100, with offload and without.",
    )


def _v100(layers: int, hidden: int, heads: int, micro_batch: int, **choices: float) -> Estimate:
    dgx_2 = alone("v100-sxm-32gb", host_bytes=1.5e12, cores=48, host_bytes_per_s=256e9)
    batch = 512 // micro_batch * micro_batch
    training = TrainingSpec(seq_len=1024, global_batch=batch, precision=FP16_GRADIENTS_TOO, stack="hf-deepspeed")
    model = gpt(layers, hidden, heads, vocabulary=50304, positions=1024)
    return planned(model, dgx_2, training, micro_batch=micro_batch, recompute="full", **choices)


def _most(hidden: int, heads: int, layers: range, **choices: float) -> float:
    """Billions of parameters of the deepest model that fits."""
    most = 0.0
    for count in layers:
        try:
            _v100(count, hidden, heads, 1, **choices)
        except InfeasibleError:
            break
        most = gpt(count, hidden, heads, vocabulary=50304, positions=1024).parameter_count / 1e9
    return most


def _interleaved() -> Line:
    """Maurya et al. 2024, Deep Optimizer States: a 20B model on four H100, the update shared by GPU and host."""
    job = TrainingSpec(seq_len=2048, global_batch=4)
    fixed = {"dp_shard": 4, "zero_stage": 3, "micro_batch": 1, "recompute": "full"}
    host, shared = (
        planned("gpt-neox-20b", "h100-sxm:4", job, **fixed, offload_optimizer=share).step_seconds
        for share in (1, "0..1")
    )
    return Line(
        "iterations up to 2.5x faster than with all updates on the host",
        f"{host / shared:.1f}x with the share that the planner keeps on the device, one sequence to a device and step",
        "Theirs keeps states on the host and moves them for the update, ours keeps a share of them on the device, as far as memory goes.",
    )


def _streamed() -> Line:
    """Superpipeline (Abbasi et al. 2024): layers stream from the host."""
    bf16 = Precision(parameters="bf16", gradients="bf16")
    job = TrainingSpec(seq_len=2048, global_batch=8, precision=bf16, optimizer="sgd")
    fixed = {"micro_batch": 4, "recompute": "full"}
    whole = planned("llama-3.1-8b", "a100-sxm-80gb:1", job, **fixed)
    choices = {"offload_optimizer": 1, "offload_gradients": 1, "offload_parameters": 1}
    streamed = planned("llama-3.1-8b", "a100-sxm-80gb:1", job, **fixed, **choices)
    return Line(
        "up to 60% less GPU memory",
        f"{1 - streamed.peak_memory_bytes / whole.peak_memory_bytes:.0%} less for Llama-3.1-8B in bf16 with SGD, "
        f"{streamed.step_seconds / whole.step_seconds:.1f}x the time",
        "All layers are streamed here, with their gradients; theirs keeps as many as wanted.",
    )


def _experts_on_host() -> Line:
    """Kim et al. 2021, arXiv 2109.10465: 8 times the parameters on the same devices."""
    kept, states = 2, 2 + 4 + 4 + 4 + 2  # bytes of a parameter: 16-bit weight; with gradient, fp32 copy and two moments
    return Line(
        "8x the parameters on the same hardware",
        f"{states / kept:.0f}x: {states} bytes a parameter become {kept} where gradient and states are on the host",
        "By hand, for the experts alone; the planner's `--offload` takes shares of all states, not of experts apart.",
    )


OFF_DEVICE = (
    System("19", "ZeRO-Offload", check=_zero_offload),
    System("20", "Deep Optimizer States", check=_interleaved),
    System("21", "Superpipeline", check=_streamed),
    System(
        "22",
        "MemAscend",
        "Up to 55.7% less host memory than ZeRO-Infinity. The engine takes pinned memory to the byte, from one bounded pool, without a second copy "
        "and without rounding ([offload.md](offload.md)); ZeRO-Infinity's own use of the host is not modelled, so the ratio is not checked.",
    ),
    System("23", "Scalable and Efficient MoE Training", check=_experts_on_host),
)
