"""Pipelines by hand, slow networks, runs that go on."""

from shardwright.catalog import devices, load_cluster
from shardwright.catalog.huggingface import load_model
from shardwright.planner import Fixed, search
from shardwright.planner.mixed import search_mixed
from shardwright.specs import ClusterSpec, TrainingSpec

from .setups import FP16_GRADIENTS_TOO, Line, System, gpt, planned


def _gpipe() -> Line:
    """Huang et al. 2019, arXiv 1811.06965: stages doubled with 32 microbatches."""
    job = TrainingSpec(seq_len=1024, global_batch=32, precision=FP16_GRADIENTS_TOO)
    fixed = {"tp": 1, "micro_batch": 1, "recompute": "full"}
    seconds = {1: planned(gpt(24, 2048, 16), "v100-sxm-32gb:1", job, **fixed).step_seconds}
    for stages in (2, 4, 8):
        found = planned(gpt(24, 2048, 16), f"v100-sxm-32gb:{stages}", job, **fixed, pp=stages, schedule="gpipe")
        seconds[stages] = found.step_seconds
    gains = [seconds[1] / seconds[stages] for stages in (2, 4, 8)]
    return Line(
        "almost linear in the number of stages",
        ", ".join(f"{gain:.1f}x" for gain in gains) + " on 2, 4, 8 stages with 32 microbatches",
        "m / (m + p - 1) of linear is 0.97, 0.91, 0.82; the head of the last stage and messages take the rest.",
    )


def _holmes() -> Line:
    """Yang et al. 2023, arXiv 2312.03549: two islands with InfiniBand inside and Ethernet between them."""
    job, fixed = TrainingSpec(seq_len=4096, global_batch=256), Fixed(schedule="1f1b", pp=2)
    model, island = load_model("llama-3.1-8b"), load_cluster("a100-sxm-80gb:16").groups[0]
    islands = ClusterSpec(name="two islands", groups=(island, island), between=devices.link("ethernet-25g"))
    joined, ethernet = (
        search(model, load_cluster(name), job, fixed=fixed, runners_up=0).estimate.step_seconds
        for name in ("a100-sxm-80gb:32", "a100-sxm-80gb:32@ethernet-25g")
    )
    apart = search_mixed(model, islands, job, fixed=fixed, runners_up=0).result.estimate.step_seconds
    return Line(
        "islands near one InfiniBand cluster, and above Ethernet alone",
        f"islands {apart / joined:.2f}x the time of one cluster, Ethernet alone {ethernet / joined:.2f}x",
        "Llama-3.1-8B in two stages on 2 x 16 A100. The eight devices of a node share its 25 Gb/s of Ethernet for the pipeline's messages, and "
        "this executor computes nothing meanwhile. A larger model is nearer.",
    )


NETWORKS = (
    System(
        "1",
        "Galvatron",
        "No figure in the abstract. ZeRO stage, recompute and offload are chosen layer class by layer class, and by stage; tp is one degree for "
        "all layers. `run --replan` plans anew between steps, not by phases of training.",
    ),
    System("4", "GPipe", check=_gpipe),
    System(
        "5",
        "OneFlow, PanGu-alpha",
        "No figure of time. The five axes of PanGu-alpha (data, tensor, pipeline, optimizer, rematerialisation) are axes of the planner; the 200B of the paper "
        "on 2,048 Ascend 910 is not, because the catalog has the 910B alone.",
    ),
    System(
        "6",
        "Redco",
        "No figure of time. Tensor-parallel plans come from transformers, and by pairs of linears where a class ships none "
        "([running.md](running.md)).",
    ),
    System("9", "PaLM, Pathways", "No figure in the abstract. TPU v4 is refused by name: its links form a torus."),
    System("10", "Holmes", check=_holmes),
    System("13", "Ladder-residual", "1.3x at inference. Not modelled: it changes the model."),
    System(
        "14",
        "Sequence Parallelism (ring self-attention)",
        "13.7x the batch of tensor parallelism on 64 P100, for BERT. Ring attention is an axis and runs; BERT is no causal model, and the "
        "ratio counts attention matrices that fused attention does not keep.",
    ),
    System(
        "16",
        "StreamBP, SeCO, SpaCO",
        "2.8 to 5.5x the length of checkpointing. Feed-forward and loss run in pieces (`--mlp-tiles`, `--loss-chunks`); the backward of whole layers in pieces "
        "of the sequence is not modelled.",
    ),
    System(
        "23",
        "DeepSpeed-MoE, SE-MoE",
        "5x less cost at equal quality, and inference. Experts that differ by layer and shared experts are read; prefetch of experts from drives is not modelled.",
    ),
    System(
        "28",
        "ElasWave",
        "1.35x the throughput of ReCycle after losses. `run --replan` goes on with what is left; stages are not reshaped while a run is up, so the ratio "
        "is not checked.",
    ),
    System(
        "28",
        "ByteCheckpoint",
        "54x fewer stalls on average. `python -m shardwright.benchmarks.survival.stalls` measures what an asynchronous checkpoint holds up beside a synchronous one "
        "([running.md](running.md)); checkpoints resume under any plan.",
    ),
)
