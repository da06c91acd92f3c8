"""Long sequences: context parallelism, pieces of layers, activations on the host, documents of many lengths."""

from shardwright.base import units
from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import load_model
from shardwright.costmodel import estimate_plan
from shardwright.specs import (
    Estimate,
    LayerRun,
    Lengths,
    Mesh,
    Offload,
    Plan,
    Precision,
    Stage,
    Trainable,
    TrainingSpec,
)

from .setups import Line, System, alone, gpt, planned

_DEVICE_BYTES = 80 * 2**30
_PIECE = 64 * 1024  # tokens: how finely the longest sequence is looked for


def _ulysses() -> Line:
    """Jacobs et al. 2023, arXiv 2309.14509: the bytes of a link stay the same when length and devices grow together."""
    moved = []
    for devices in (8, 16, 32, 64):
        job = TrainingSpec(seq_len=8192 * devices, global_batch=1, loss_chunks=16)
        model = gpt(24, 2048, 64, positions=8192 * devices)
        fixed = {"cp": devices, "context_parallel": "ulysses", "recompute": "full"}
        moved.append(planned(model, f"a100-sxm-80gb:{devices}", job, **fixed).step.context_parallel)
    across = moved[1:]
    return Line(
        "constant volume where length and devices grow alike; up to 2.5x faster at 4x the length",
        "seconds of exchange on 16, 32, 64 devices: "
        + ", ".join(f"{one / across[0]:.2f}" for one in across)
        + " of those on 16",
        "On 8 devices NVLink carries all of it. Across nodes the share of a rank's bytes that leaves its node grows from 8/16 to 56/64. "
        "The 2.5x is against ring attention of its time without FlashAttention, which is no stack here.",
    )


def _alst() -> Line:
    """Bekman et al. 2025, arXiv 2506.13996; tests/costmodel/test_published_offload.py has both jobs in full."""
    longest = [_longest(devices) for devices in (1, 8)]
    return Line(
        "Llama-8B: 500K tokens on one H100, 3.7M on eight",
        " and ".join(units.count(tokens) for tokens in longest) + " by tensors alive",
        "What the caching allocator lost to fragmentation in these runs is not known; which of device and host ran out is not told either.",
    )


def _longest(devices: int) -> int:
    """The longest sequence in steps of 64K whose tensors fit, by bisection: memory grows with length."""
    low, high = 1, 32 * devices
    while high - low > 1:
        middle = (low + high) // 2
        fits = _arctic(middle * _PIECE, devices).memory[0].allocated < _DEVICE_BYTES
        low, high = (middle, high) if fits else (low, middle)
    return low * _PIECE


def _arctic(seq_len: int, devices: int) -> Estimate:
    training = TrainingSpec(
        seq_len=seq_len,
        global_batch=1,
        precision=Precision(gradients="bf16"),
        stack="hf-deepspeed",
        loss_chunks=256,
        mlp_tiles=seq_len // 4096,
    )
    streams = 1 if devices == 1 else 0
    run = LayerRun(count=32, recompute="full", zero_stage=0 if devices == 1 else 3, activation_offload=1)
    plan = Plan(
        mesh=Mesh(cp=devices),
        micro_batch=1,
        microbatches=1,
        context_parallel="ulysses",
        stages=(Stage(layers=(run,)),),
        offload=Offload(optimizer_fraction=1, gradient_fraction=streams, parameter_fraction=streams),
    )
    host = alone("h100-sxm", host_bytes=2e12, cores=112, host_bytes_per_s=614e9)
    cluster = host if devices == 1 else load_cluster("h100-sxm:8")
    return estimate_plan(load_model("llama-3.1-8b"), cluster, training, plan)


def _streamed() -> Line:
    """Luo et al. 2025, arXiv 2506.03077: layers and head in pieces of the sequence, beside checkpoints of layers and all logits at once."""
    lengths = [
        [_longest_backward(name, head, layers) for head, layers in ((1, 1), (64, 1), (64, 64))]
        for name in ("qwen3-4b", "qwen3-8b", "qwen3-14b")
    ]
    of_head, of_layers, of_both = (
        f"{min(gains):.1f} to {max(gains):.1f}x"
        for gains in (
            [head / plain for plain, head, _ in lengths],
            [both / head for _, head, both in lengths],
            [both / plain for plain, _, both in lengths],
        )
    )
    return Line(
        "2.8 to 5.5x the length of checkpointing",
        f"{of_both} for Qwen3 of 4B, 8B and 14B on 80 GB: {of_head} by the head in 64 pieces, and {of_layers} of that by the layers",
        "Too much. Adapters beside weights in bf16, and the number of pieces, are ours; what their pieces keep, the abstract does not tell.",
    )


def _longest_backward(name: str, of_head: int, of_layers: int) -> int:
    """The longest sequence in steps of 1K with adapters on one A100 whose tensors fit."""
    model, cluster = load_model(name), load_cluster("a100-sxm-80gb:1")

    def fits(thousands: int) -> bool:
        training = TrainingSpec(
            seq_len=1024 * thousands,
            global_batch=1,
            trainable=Trainable.model_validate("lora:r=16,targets=all-linear"),
            loss_chunks=of_head,
            sequence_chunks=of_layers,
        )
        run = LayerRun(count=model.layer_count, recompute="full", zero_stage=0)
        plan = Plan(mesh=Mesh(), micro_batch=1, microbatches=1, stages=(Stage(layers=(run,)),))
        return estimate_plan(model, cluster, training, plan).memory[0].allocated < _DEVICE_BYTES

    low, high = 1, 1024
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _memo() -> Line:
    """Zhao et al. 2024, arXiv 2407.12117: activations swapped, feed-forward and norms repeated."""
    model = load_model("llama-2-7b")
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
    estimate = estimate_plan(model, load_cluster("a800-sxm-80gb:8"), training, plan)
    unseen = (
        3 * 32 * 2 * 2 * 4096 * training.seq_len**2 / 2
    )  # FLOPs of the half of attention that a causal kernel leaves out
    return Line(
        "7B at a million tokens on eight A800: 52.3% MFU",
        f"{estimate.mfu * (1 - unseen / estimate.model_flops):.1%} with the causal half of attention counted",
        f"With all of it ours is {estimate.mfu:.0%}, which no kernel reaches, so theirs counts the half. tp 2, cp 4 and the share of the optimizer on "
        "the host are ours.",
    )


def _balance() -> Line:
    """Zhuang et al. 2025: core attention as a service of its own. Documents of 1K to 512K tokens, all lengths alike, packed to 512K."""
    job = TrainingSpec(
        seq_len=524288, global_batch=64, stack="megatron-core", loss_chunks=64, lengths=Lengths.uniform(1024, 524288)
    )
    estimate = planned("llama-3.1-8b", "h200-sxm:512", job, tp=8, cp=8, pp=1, micro_batch=1, recompute="full")
    lost = estimate.step.straggler / estimate.step_seconds
    return Line(
        "DistCA up to 1.35x on 512 H200 at 512K; ByteScale up to 7.9x; Zeppelin 2.8x on average",
        f"{1 / (1 - lost):.2f}x at most: what waiting for the rank with the longest documents costs",
        "The gain is the imbalance that is removed, and that depends on the mix of lengths, which the abstracts do not give. "
        "`plan --lengths` counts packing and this wait; attention on servers of its own and groups that change with each batch are not modelled.",
    )


LONG_SEQUENCES = (
    System("15", "DeepSpeed-Ulysses", check=_ulysses),
    System("16", "StreamBP", check=_streamed),
    System("16", "ALST", check=_alst),
    System("17", "MEMO", check=_memo),
    System("18", "ByteScale, Zeppelin, DistCA", check=_balance),
)
