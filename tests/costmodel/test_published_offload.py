"""What was published of offload on one device or one server. Each test names its source; docs/offload.md says where we differ, and why."""

import json
from pathlib import Path

import pytest

from shardwright.benchmarks.systems.setups import alone
from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import load_model
from shardwright.costmodel import estimate_plan
from shardwright.specs import (
    Estimate,
    LayerRun,
    Mesh,
    Offload,
    Plan,
    Precision,
    Stage,
    TrainingSpec,
)
from shardwright.specs.model import ModelSpec

_LLAMA = "llama-3.1-8b"
# the fp16 of a V100, gradients in 16 bits, and kernels of Hugging Face under DeepSpeed
_ON_V100 = Precision(compute="fp16", gradients="bf16")


def _gpt(path: Path, *, layers: int, hidden: int, heads: int) -> ModelSpec:
    config = {"model_type": "gpt2", "n_layer": layers, "n_embd": hidden, "n_head": heads, "n_positions": 1024}
    path.write_text(json.dumps(config | {"vocab_size": 50304, "activation_function": "gelu_new"}), encoding="utf-8")
    return load_model(str(path))


def _plan(layers: int, micro_batch: int, microbatches: int, offload: Offload, *, share: float = 0, **mesh: int) -> Plan:
    run = LayerRun(count=layers, recompute="full", zero_stage=3 if mesh else 0, activation_offload=share)
    return Plan(
        mesh=Mesh(**mesh),
        micro_batch=micro_batch,
        microbatches=microbatches,
        context_parallel="ulysses",
        stages=(Stage(layers=(run,)),),
        offload=offload,
    )


def _v100(model: ModelSpec, micro_batch: int, offload: Offload) -> Estimate:
    """Steps of 512 sequences of 1,024 tokens on one V100 of a DGX-2, whose host has 1.5 TB and 48 cores."""
    cluster = alone("v100-sxm-32gb", host_bytes=1.5e12, cores=48, host_bytes_per_s=256e9)
    microbatches = 512 // micro_batch
    training = TrainingSpec(
        seq_len=1024, global_batch=micro_batch * microbatches, precision=_ON_V100, stack="hf-deepspeed"
    )
    return estimate_plan(model, cluster, training, _plan(model.layer_count, micro_batch, microbatches, offload))


def _tflops(estimate: Estimate) -> float:
    return estimate.model_flops / estimate.step_seconds / 1e12


class TestZeroOffload:
    """Ren et al. 2021, ZeRO-Offload (arXiv 2101.06840), abstract: one V100 of 32 GB trains 13B with it and 1.4B without; 40 TFLOP/s
    at 10B with it, 30 at 1.4B without."""

    memory_bytes = 32 * 2**30
    on_host = Offload(optimizer_fraction=1, gradient_fraction=1)

    def test_13b_fits_with_it(self, tmp_path: Path) -> None:
        """26 GB of weights in 16 bits stay; the host holds 16 bytes of a parameter."""
        model = _gpt(tmp_path / "config.json", layers=65, hidden=4096, heads=32)
        estimate = _v100(model, 4, self.on_host)
        assert model.parameter_count == pytest.approx(13e9, rel=0.03)
        assert estimate.memory[0].total < self.memory_bytes
        assert estimate.host_bytes[0] == pytest.approx(16 * model.parameter_count)

    @pytest.mark.parametrize(("layers", "fits"), [(26, True), (36, False)])
    def test_about_1_4b_fits_without(self, layers: int, fits: bool, tmp_path: Path) -> None:
        model = _gpt(tmp_path / "config.json", layers=layers, hidden=2048, heads=16)
        assert (model.parameter_count < 1.45e9) == fits
        assert (_v100(model, 1, Offload()).memory[0].total < self.memory_bytes) == fits

    def test_offload_costs_10b_little(self, tmp_path: Path) -> None:
        """Published: 40 TFLOP/s at 10B, a third more than 1.4B reaches without offload, since its matmuls are larger. We predict 60 and
        58: the software of 2020 reached about half of what ours assumes on a V100, with and without offload."""
        large = _gpt(tmp_path / "large.json", layers=50, hidden=4096, heads=32)
        small = _gpt(tmp_path / "small.json", layers=26, hidden=2048, heads=16)
        with_it, without = _v100(large, 10, self.on_host), _v100(small, 8, Offload())
        assert _tflops(with_it) > _tflops(without)
        assert _tflops(with_it) / _tflops(without) == pytest.approx(40 / 30, rel=0.25)
        copied = with_it.step.host_copy + with_it.step.optimizer
        assert copied < 0.1 * with_it.step_seconds


class TestArcticLongSequences:
    """Bekman et al. 2025, ALST (arXiv 2506.13996), abstract: Llama-8B at 500K tokens on one H100 of 80 GB and 3.7M on eight, with
    checkpoints and optimizer on the host, tiled feed-forward and loss, and Ulysses."""

    memory_bytes = 80 * 2**30

    def _estimate(self, seq_len: int, devices: int, *, share: float = 1, tiles: int | None = None) -> Estimate:
        single = alone("h100-sxm", host_bytes=2e12, cores=112, host_bytes_per_s=614e9)
        training = TrainingSpec(
            seq_len=seq_len,
            global_batch=1,
            precision=Precision(gradients="bf16"),
            stack="hf-deepspeed",
            loss_chunks=256,
            mlp_tiles=tiles or seq_len // 4096,
        )
        streams = 1 if devices == 1 else 0
        offload = Offload(optimizer_fraction=1, gradient_fraction=streams, parameter_fraction=streams)
        mesh = {"cp": devices} if devices > 1 else {}
        cluster = single if devices == 1 else load_cluster("h100-sxm:8")
        return estimate_plan(load_model(_LLAMA), cluster, training, _plan(32, 1, 1, offload, share=share, **mesh))

    @pytest.mark.parametrize(("seq_len", "devices", "host_bytes"), [(500_000, 1, 131e9), (3_700_000, 8, 970e9 / 8)])
    def test_the_host_holds_a_checkpoint_of_each_layer(self, seq_len: int, devices: int, host_bytes: float) -> None:
        """Tokens x 4096 x 2 bytes x 32 layers."""
        more = self._estimate(seq_len, devices).host_bytes[0] - self._estimate(seq_len, devices, share=0).host_bytes[0]
        assert more == pytest.approx(host_bytes, rel=0.01)

    @pytest.mark.parametrize(("seq_len", "devices"), [(500_000, 1), (3_700_000, 8)])
    def test_the_length_fits_and_not_much_more(self, seq_len: int, devices: int) -> None:
        """By the tensors that are alive: what slack the allocator of these runs had is not known."""
        assert self._estimate(seq_len, devices).memory[0].allocated < self.memory_bytes
        longer = seq_len * 5 // 4 // 64 * 64
        assert self._estimate(longer, devices).memory[0].allocated > self.memory_bytes

    def test_each_part_is_needed(self) -> None:
        assert self._estimate(500_000, 1, share=0).memory[0].allocated > 2 * self.memory_bytes
        assert self._estimate(500_000, 1, tiles=1).memory[0].allocated > 2 * self.memory_bytes


class TestMemo:
    """Zhao et al. 2024, MEMO (arXiv 2407.12117), abstract: 7B at a million tokens on eight A800 of 80 GB at 52.30% MFU. It swaps
    activations, and repeats what does not fit but the attention."""

    def test_a_million_tokens(self) -> None:
        """Swapped under tensor and context parallelism, with feed-forward and norms repeated. MFU of the causal half of attention;
        by all of it ours would be 97%, which no kernel reaches, so theirs counts the half, too."""
        model, cluster = load_model("llama-2-7b"), load_cluster("a800-sxm-80gb:8")
        training = TrainingSpec(
            seq_len=1_048_576,
            global_batch=1,
            stack="megatron-core",
            loss_chunks=16,
            recompute_modules=("mlp", "layernorm"),
        )
        run = LayerRun(count=32, recompute="selective", zero_stage=1, activation_offload=1)
        plan = Plan(
            mesh=Mesh(cp=4, tp=2),
            micro_batch=1,
            microbatches=1,
            context_parallel="ulysses",
            stages=(Stage(layers=(run,)),),
            offload=Offload(optimizer_fraction=0.25),
        )
        estimate = estimate_plan(model, cluster, training, plan)
        attention = 3 * 32 * 2 * 2 * 4096 * training.seq_len**2 / 2  # the half that the kernel leaves out
        causal = estimate.mfu * (1 - attention / estimate.model_flops)
        assert causal == pytest.approx(0.523, rel=0.15)
        assert estimate.memory[0].allocated < 80 * 2**30
        assert max(estimate.host_bytes) * 8 < 2e12
        kept = plan.model_copy(update={"stages": (Stage(layers=(run.model_copy(update={"activation_offload": 0}),)),)})
        assert estimate_plan(model, cluster, training, kept).memory[0].allocated > 2 * 80 * 2**30
