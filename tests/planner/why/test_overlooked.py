"""Warnings name what is overlooked, and nothing else; what the catalog gave is said, what the user gave is not."""

import pytest

from shardwright.catalog.cluster_file import load_cluster
from shardwright.catalog.huggingface.load import load_model
from shardwright.costmodel.evaluate import estimate_plan
from shardwright.planner import search
from shardwright.planner.why.overlooked import assumed, overlooked
from shardwright.specs.mesh import Mesh
from shardwright.specs.plan import LayerRun, Plan, Stage
from shardwright.specs.training import TrainingSpec
from tests.catalog.huggingface.small_configs import read
from tests.planner.small_problems import tiny_cluster


def _warned(name: str, *, seq_len: int, loss_chunks: int = 1, cp: int = 1) -> list[str]:
    model, cluster = load_model(name), load_cluster("h100-sxm:8")
    training = TrainingSpec(seq_len=seq_len, global_batch=8, loss_chunks=loss_chunks)
    layers = LayerRun(count=model.layer_count, zero_stage=3, recompute="full")
    plan = Plan(mesh=Mesh(dp_shard=8 // cp, cp=cp), micro_batch=1, microbatches=cp, stages=(Stage(layers=(layers,)),))
    return overlooked(model, cluster, training, plan, estimate_plan(model, cluster, training, plan))


@pytest.mark.parametrize(
    ("cluster", "stack", "told"),
    [("tpu-v4:8", "shardwright", True), ("tpu-v4:8", "xla", False), ("h100-sxm:8", "shardwright", False)],
)
def test_a_tpu_runs_xla(cluster: str, stack: str, told: bool) -> None:
    training = TrainingSpec(seq_len=1024, global_batch=8, stack=stack)
    job = load_model("llama-3.2-1b"), load_cluster(cluster), training
    found = search(*job, runners_up=0)
    assert any("--stack xla" in sentence for sentence in overlooked(*job, found.plan, found.estimate)) == told


def test_a_sequence_beyond_the_positions() -> None:
    (found,) = _warned("llama-2-7b", seq_len=8192, loss_chunks=8)
    assert "8,192 tokens is longer than the 4,096 positions of llama-2-7b" in found
    assert _warned("llama-2-7b", seq_len=4096, loss_chunks=8) == []


@pytest.mark.parametrize(("chunks", "count"), [(1, 1), (8, 0)])
def test_logits_that_dominate(chunks: int, count: int) -> None:
    """128,256 words for 32,768 tokens in three and a half copies of fp32 are 55 GiB."""
    found = [line for line in _warned("llama-3.2-1b", seq_len=32768, loss_chunks=chunks) if "logits" in line]
    assert len(found) == count
    assert all("--loss-chunks 16 this plan needs" in sentence for sentence in found)


def test_mfu_of_a_long_sequence_counts_what_no_causal_kernel_computes() -> None:
    """By hand: 6 x 1.236e9 for the matmuls and 12 x 16 x 2048 x 32768 for attention a token, half of it causal: 67% are left."""
    (found,) = _warned("llama-3.2-1b", seq_len=32768, loss_chunks=8)
    model, cluster = load_model("llama-3.2-1b"), load_cluster("h100-sxm:8")
    training = TrainingSpec(seq_len=32768, global_batch=8, loss_chunks=8)
    layers = LayerRun(count=model.layer_count, zero_stage=3, recompute="full")
    plan = Plan(mesh=Mesh(dp_shard=8), micro_batch=1, microbatches=1, stages=(Stage(layers=(layers,)),))
    matmuls, attention = 6 * 1.2358e9, 12 * 16 * 2048 * 32768
    share = (matmuls + attention / 2) / (matmuls + attention)
    said = float(found.split("leaves it is ")[1].rstrip("%.")) / 100
    assert said == pytest.approx(share * estimate_plan(model, cluster, training, plan).mfu, abs=2e-3)
    assert "causal mask, as is usual" in found
    assert _warned("llama-3.2-1b", seq_len=2048) == []


def test_logits_in_pieces_are_estimated_not_guessed() -> None:
    """The figure is that of the same plan with so many pieces."""
    found = next(line for line in _warned("llama-3.2-1b", seq_len=32768) if "logits" in line)
    model, cluster = load_model("llama-3.2-1b"), load_cluster("h100-sxm:8")
    training = TrainingSpec(seq_len=32768, global_batch=8, loss_chunks=16)
    layers = LayerRun(count=model.layer_count, zero_stage=3, recompute="full")
    plan = Plan(mesh=Mesh(dp_shard=8), micro_batch=1, microbatches=1, stages=(Stage(layers=(layers,)),))
    peak = estimate_plan(model, cluster, training, plan).peak_memory_bytes
    assert f"needs {peak / 2**30:.1f} GiB (--loss-chunks auto plans for it)" in found


def test_what_the_catalog_gave() -> None:
    assert assumed(load_cluster("h100-sxm:64")) == (
        "8 devices a node, nvswitch 450 GB/s, 8 NICs of 50 GB/s, 112 cores and 1.82 TiB on each host of 8"
    )
    assert "NICs" not in assumed(load_cluster("h100-sxm:8"))
    assert assumed(tiny_cluster(devices=8)) == ""


def test_how_many_experts_of_a_token_compute() -> None:
    """Of 512 that do and 256 that do not, a token chooses twelve."""
    model = read({"model_type": "longcat_flash", "hidden_size": 6144, "num_layers": 28})
    assert assumed(tiny_cluster(devices=8), model) == (
        "each choice of a router gets as many tokens: of 12 experts of a token 8 compute"
    )
    assert assumed(tiny_cluster(devices=8), load_model("mixtral-8x7b")) == ""
