"""Random valid runs: a model, a cluster, a batch and a plan that divides them."""

import math
from typing import NamedTuple

from hypothesis import strategies as st

from shardwright.base.errors import SpecError
from shardwright.costmodel.op_times.operand_formats import OPERANDS
from shardwright.specs.cluster import ClusterSpec, Host, Link, NodeGroup
from shardwright.specs.device import Device
from shardwright.specs.mesh import Mesh, experts_fold
from shardwright.specs.model.attention import LatentAttention, MultiHeadAttention
from shardwright.specs.model.feed_forward import FeedForward, MixtureOfExperts
from shardwright.specs.model.model import Block, BlockRun, ModelSpec
from shardwright.specs.model.norm import Norm
from shardwright.specs.plan import APPROXIMATIONS, LayerRun, Offload, Plan, Stage, Sync
from shardwright.specs.stack import named_stack, stack_names
from shardwright.specs.trainable import Trainable
from shardwright.specs.training import TrainingSpec


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
        peak_flops_per_s={"bf16": peak, "fp32": peak / 8, "fp8": 2 * peak, "fp4": 4 * peak}, multiprocessors=draw(st.integers(1, 200)),
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
def contexts(draw: st.DrawFn, tp: int, *, windows: bool) -> tuple[int, str]:
    """A degree and a way that divide: of at least 8 KV heads, tp leaves 8 / tp to Ulysses. Windows do not go round a ring."""
    cp, exchange = (
        draw(st.sampled_from([1, 1, 2, 4])),
        draw(st.sampled_from(["all-gather", "ring", "ulysses", "ulysses-ring"])),
    )
    trading = {"ulysses": cp, "ulysses-ring": 2}.get(exchange, 1)
    fits = (8 // tp) % trading == 0 and (exchange != "ulysses-ring" or cp == 4)
    exchange = exchange if fits else "ring"
    return cp, "all-gather" if windows and "ring" in exchange else exchange


@st.composite
def meshes(draw: st.DrawFn, model: ModelSpec, degrees: dict[str, int]) -> Mesh:
    """Experts spread in any way that folds, where there are some."""
    counts = [block.ffn.experts for block in model.layer_classes if isinstance(block.ffn, MixtureOfExperts)]
    tp, ranks = degrees["tp"], degrees["dp_shard"] * degrees["cp"] * degrees["tp"]
    folds = [
        ep for ep in range(1, 1 + math.gcd(*counts)) if math.gcd(*counts) % ep == 0 and experts_fold(ranks, tp, ep, 0)
    ]
    return Mesh.parse({**degrees, "ep": draw(st.sampled_from(folds or [1]))}, source="test")


@st.composite
def precisions(draw: st.DrawFn) -> dict[str, str | None]:
    linear = draw(st.sampled_from([None, None, *OPERANDS]))
    gather = draw(st.sampled_from([None, "fp8"])) if linear == "fp8" else None
    return {"compute": draw(st.sampled_from(["bf16", "fp32"])), "linear": linear, "gather": gather}


@st.composite
def trainables(draw: st.DrawFn, model: ModelSpec, *, lower: bool) -> str:
    """Everything in half of the cases; else adapters, or the last layers. `lower`: the matmuls run in a lower format, which
    frozen weights in 4 or 8 bits exclude."""
    rank, layers = draw(st.integers(1, 256)), draw(st.integers(1, model.layer_count))
    base = "16bit" if lower else draw(st.sampled_from(["16bit", "int8", "nf4", "gptq"]))
    targets = draw(st.sampled_from(["attention", "mlp", "all-linear", "o_proj+up_proj"]))
    adapters = f"lora:r={rank},targets={targets},base={base},dropout={draw(st.sampled_from(['yes', 'no']))}"
    head = "" if model.tied_embeddings else draw(st.sampled_from(["", "+head"]))
    return draw(st.sampled_from(["all", "all", adapters, f"layers:{layers}{head}"]))


def _trains(stack: str, trainable: str, model: ModelSpec, tp: int) -> bool:
    """Whether the stack runs the frozen weights of adapters in their format, whole or divided over tp."""
    what, runs = Trainable.model_validate(trainable), named_stack(stack).runs
    experts = any(isinstance(block.ffn, MixtureOfExperts) for block in model.layer_classes)
    whole = what.base == "compute" or runs.divides_quantized or (tp == 1 and not experts)
    return not what.has_adapters or (what.base in runs.frozen_formats and whole)


@st.composite
def optimizers(draw: st.DrawFn, model: ModelSpec, trainable: str, plan: Plan) -> str:
    """Any that updates what is trained, in one microbatch where it does so layer by layer; off the device AdamW or SGD."""
    every = ["adamw", "sgd"]
    if plan.offload.optimizer_fraction == 0:
        every += ["sgd:momentum=0.9", "lion", "adamw8bit"]
        experts = any(isinstance(block.ffn, MixtureOfExperts) for block in model.layer_classes)
        if trainable == "all" and not experts:
            every += ["adafactor", "muon", "soap", "galore:rank=64", "galore:bits=8", "frugal", "cosmos", "sinkgd"]
    name = draw(st.sampled_from(every))
    mesh = plan.mesh
    split = mesh.tp * (mesh.data_ranks // mesh.dp_replicate if plan.zero_stage else 1) > 1
    waits = plan.microbatches > 1 or mesh.pp > 1 or split or "galore" not in name
    return name if waits or draw(st.booleans()) else f"{name},layerwise=1"


@st.composite
def agreements(draw: st.DrawFn, plan: Plan, optimizer: str) -> Plan:
    """The plan with an exact reduction of gradients, or with an approximation that its replicas can agree by."""
    every = [sync for one in APPROXIMATIONS.values() for sync in one.syncs]
    sync = draw(st.sampled_from([Sync(), *every]))
    if "layerwise" in optimizer or (sync.method == "1-bit-adam" and optimizer != "adamw"):
        return plan
    try:
        return Plan.parse({**dict(plan), "sync": sync}, source="test")
    except SpecError:  # no replicas, or what lies inside one is not sharded
        return plan


@st.composite
def runs(draw: st.DrawFn) -> Run:
    pp, dp_replicate, dp_shard, tp = draw(POWERS), draw(POWERS), draw(POWERS), draw(POWERS)
    chunks = draw(st.integers(2, 4)) if pp > 1 and draw(st.booleans()) else 1
    schedule = "interleaved-1f1b" if chunks > 1 else draw(st.sampled_from(["gpipe", "1f1b"]))
    microbatches = draw(st.integers(1, 12)) * (pp if chunks > 1 else 1)
    micro_batch = draw(st.integers(1, 4))
    zero_stages = draw(st.sampled_from([[1], [2], [3], [2, 3]])) if dp_shard > 1 else [0]
    sizes = draw(st.lists(st.integers(1, 6), min_size=pp * chunks, max_size=pp * chunks))
    model = draw(models(sum(sizes)))
    windows = any(getattr(block.attention, "window", None) for block in model.layer_classes)
    cp, exchange = draw(contexts(tp, windows=windows))
    ulysses_degree = 2 if exchange == "ulysses-ring" else 1
    mesh = draw(meshes(model, {"pp": pp, "dp_replicate": dp_replicate, "dp_shard": dp_shard, "cp": cp, "tp": tp}))
    plan = Plan.parse(
        {
            "mesh": mesh,
            "context_parallel": exchange,
            "ulysses_degree": ulysses_degree,
            "expert_dispatch": draw(st.sampled_from(["all-to-all", "deduplicated"])),
            "micro_batch": micro_batch,
            "microbatches": microbatches,
            "schedule": schedule,
            "vocabulary_parallel": draw(st.sampled_from(["none", "vocab-1", "vocab-2"])) if pp > 1 else "none",
            "stages": [draw(_stage(size, zero_stages)) for size in sizes],
            "sequence_parallel": True if tp > 1 and mesh.ep > 1 else draw(st.booleans()),
            "offload": Offload(optimizer_fraction=draw(st.sampled_from([0, 0.375, 1]))),
        },
        source="test",
    )
    precision = draw(precisions())
    trainable = draw(trainables(model, lower=precision["linear"] is not None))
    stack = draw(st.sampled_from([name for name in stack_names() if _trains(name, trainable, model, tp)]))
    optimizer = draw(optimizers(model, trainable, plan))
    plan = draw(agreements(plan, optimizer))
    divides = cp == 1 or "unfused" not in named_stack(stack).runs.undivided_attention
    training = TrainingSpec.parse(
        {
            "seq_len": 64 * draw(st.integers(1, 250)), "global_batch": plan.global_batch,
            "optimizer": optimizer,
            "attention": draw(st.sampled_from(["flash", "unfused"] if divides else ["flash"])),
            "precision": precision,
            "trainable": trainable,
            "expert_imbalance": draw(st.floats(1, 3)),
            "expert_capacity": draw(st.none() | st.floats(0.5, 4)),
            "routing": draw(st.sampled_from(["random", "consecutive"])),
            "stack": stack,
        },
        source="test",
    )  # fmt: skip
    return Run(model, draw(clusters(plan.mesh.ranks)), training, plan)
