"""Random valid runs: a model, a cluster, a batch and a plan that divides them."""

from typing import NamedTuple

from hypothesis import strategies as st

from shardwright.costmodel.cluster import ClusterSpec, Device, Host, Link, NodeGroup
from shardwright.costmodel.model import (
    Block,
    BlockRun,
    FeedForward,
    LatentAttention,
    MixtureOfExperts,
    ModelSpec,
    MultiHeadAttention,
    Norm,
)
from shardwright.costmodel.plan import LayerRun, Mesh, Offload, Plan, Stage
from shardwright.costmodel.stacks import stack_names
from shardwright.costmodel.training import TrainingSpec


class Run(NamedTuple):
    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec
    plan: Plan


POWERS = st.sampled_from([1, 2, 4, 8])


@st.composite
def attentions(draw: st.DrawFn) -> MultiHeadAttention | LatentAttention:
    """Multi-head, grouped-query, with a window or not; or latent. Heads and KV heads divide by 8."""
    kv_heads = draw(st.sampled_from([8, 16]))
    if draw(st.integers(0, 3)) == 0:
        return LatentAttention(
            heads=kv_heads,
            query_rank=draw(st.none() | st.integers(1, 2048)),
            kv_rank=draw(st.integers(1, 1024)),
            plain_size=draw(st.integers(1, 192)),
            rotary_size=draw(st.integers(1, 96)),
            value_head_size=draw(st.integers(1, 192)),
        )
    return MultiHeadAttention(
        heads=kv_heads * draw(POWERS),
        kv_heads=kv_heads,
        head_size=draw(st.sampled_from([32, 64, 80, 128, 256])),
        window=draw(st.none() | st.integers(1, 8192)),
        qk_norm=draw(st.sampled_from(["none", "per_head", "whole"])),
    )


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    width = 64 * draw(st.integers(2, 64))
    gated, ffn = draw(st.booleans()), None
    if draw(st.booleans()):
        experts = draw(st.integers(1, 64))
        shared_width = 64 * draw(st.integers(0, 16))
        ffn = MixtureOfExperts(
            experts=experts,
            top_k=draw(st.integers(1, experts)),
            expert_width=width,
            gated=gated,
            shared_width=shared_width,
        )
    return Block(
        attention=draw(attentions()),
        ffn=ffn or FeedForward(width=width, gated=gated),
        norm=Norm(kind=draw(st.sampled_from(["rmsnorm", "layernorm"]))),
        norm_count=draw(st.integers(0, 4)),
        parallel=draw(st.booleans()),
    )


@st.composite
def models(draw: st.DrawFn, layers: int) -> ModelSpec:
    first = draw(st.integers(1, layers))
    runs = [BlockRun(count=first, block=draw(blocks()))]
    if layers > first:
        runs.append(BlockRun(count=layers - first, block=draw(blocks())))
    return ModelSpec(
        name="random",
        family="llama",
        hidden_size=draw(st.sampled_from([128, 1024, 8192])),
        vocab_size=draw(st.integers(1000, 200_000)),
        blocks=tuple(runs),
        tied_embeddings=draw(st.booleans()),
    )


@st.composite
def clusters(draw: st.DrawFn, devices: int) -> ClusterSpec:
    per_node = min(devices, draw(st.sampled_from([4, 8])))
    rates = st.floats(1e9, 1e12)
    peak = draw(st.floats(1e13, 3e15))
    device = Device(
        name="random", memory_bytes=draw(st.floats(1e9, 1e12)), memory_bytes_per_s=draw(st.floats(1e11, 1e13)),
        peak_flops_per_s={"bf16": peak, "fp32": peak / 8}, multiprocessors=draw(st.integers(1, 200)),
        launch_seconds=draw(st.floats(0, 1e-4)),
    )  # fmt: skip
    group = NodeGroup(
        device=device,
        nodes=-(-devices // per_node),
        devices_per_node=per_node,
        intra_node=Link(kind="nvlink", bytes_per_s=draw(rates), latency_seconds=draw(st.floats(0, 1e-4))),
        host_link=Link(kind="pcie", bytes_per_s=draw(rates), latency_seconds=draw(st.floats(0, 1e-4))),
        nics_per_node=draw(st.integers(1, per_node)),
        nic=Link(kind="infiniband", bytes_per_s=draw(rates), latency_seconds=draw(st.floats(0, 1e-4))),
        host=Host(cores=64, memory_bytes=1e12, memory_bytes_per_s=draw(rates)),
    )
    return ClusterSpec(name="random", groups=(group,))


@st.composite
def _stage(draw: st.DrawFn, count: int, zero_stages: list[int]) -> Stage:
    first = draw(st.integers(1, count))
    counts = [first, count - first] if count > first else [first]
    policies = st.sampled_from(["none", "selective", "full"])
    runs = [
        LayerRun.parse(
            {"count": n, "recompute": draw(policies), "zero_stage": draw(st.sampled_from(zero_stages))}, source="test"
        )
        for n in counts
    ]
    return Stage(layers=tuple(runs))


@st.composite
def runs(draw: st.DrawFn) -> Run:
    pp, dp_replicate, dp_shard, tp = draw(POWERS), draw(POWERS), draw(POWERS), draw(POWERS)
    chunks = draw(st.integers(2, 4)) if pp > 1 and draw(st.booleans()) else 1
    schedule = "interleaved-1f1b" if chunks > 1 else draw(st.sampled_from(["gpipe", "1f1b"]))
    microbatches = draw(st.integers(1, 12)) * (pp if chunks > 1 else 1)
    micro_batch = draw(st.integers(1, 4))
    zero_stages = draw(st.sampled_from([[1], [2], [3], [2, 3]])) if dp_shard > 1 else [0]
    sizes = draw(st.lists(st.integers(1, 6), min_size=pp * chunks, max_size=pp * chunks))
    plan = Plan.parse(
        {
            "mesh": Mesh(pp=pp, dp_replicate=dp_replicate, dp_shard=dp_shard, tp=tp),
            "micro_batch": micro_batch,
            "microbatches": microbatches,
            "schedule": schedule,
            "stages": [draw(_stage(size, zero_stages)) for size in sizes],
            "sequence_parallel": draw(st.booleans()),
            "offload": Offload(optimizer_fraction=draw(st.sampled_from([0, 1]))),
        },
        source="test",
    )
    training = TrainingSpec.parse(
        {
            "seq_len": 8 * draw(st.integers(1, 2000)), "global_batch": plan.global_batch,
            "optimizer": draw(st.sampled_from(["adamw", "sgd"])),
            "attention": draw(st.sampled_from(["flash", "unfused"])),
            "precision": {"compute": draw(st.sampled_from(["bf16", "fp32"]))},
            "stack": draw(st.sampled_from(stack_names())),
        },
        source="test",
    )  # fmt: skip
    return Run(draw(models(sum(sizes))), draw(clusters(plan.mesh.ranks)), training, plan)
