"""Large dense models: tensor, pipeline and data parallelism, low precision."""

from shardwright.specs import Precision, TrainingSpec

from .setups import FP8, FP16_GRADIENTS_TOO, Line, System, cluster_like, gpt, planned, tflops


def _megatron() -> Line:
    """Shoeybi et al. 2019, arXiv 1909.08053: 1.2B on one V100, 8.3B with tp 8 and dp 64 on 512 of DGX-2H servers, 1,024 tokens."""
    old = {"precision": FP16_GRADIENTS_TOO, "stack": "megatron-lm", "attention": "unfused"}
    one = TrainingSpec(seq_len=1024, global_batch=8, **old)
    many = TrainingSpec(seq_len=1024, global_batch=512, **old)
    fixed = {"micro_batch": 8, "recompute": "full", "zero_stage": 0}
    base = planned(gpt(40, 1536, 16), "v100-sxm-32gb:1", one, **fixed)
    servers = cluster_like("v100-sxm-32gb", 512, "dgx-2")
    large = planned(gpt(72, 3072, 24), servers, many, tp=8, pp=1, **fixed)
    return Line(
        "39 TFLOP/s on one V100; on 512 76% of that each",
        f"{tflops(base):.0f} TFLOP/s, {tflops(large) / tflops(base):.0%}",
        "We count the DGX-2's 6 GB/s of NIC to each of two groups of ranks, and no overlap of gradients with the backward; "
        f"data parallelism is then {large.step.data_parallel / large.step_seconds:.0%} of the step.",
    )


def _ptd_p() -> Line:
    """Narayanan et al. 2021, arXiv 2104.04473: 1T on 3,072 A100 with tp 8, pp 64; 175B on 96 with pp 12, interleaved or not."""
    job = TrainingSpec(seq_len=2048, global_batch=3072, stack="megatron-lm", attention="unfused")
    interleaved = {"schedule": "interleaved-1f1b", "stages_per_rank": 2}
    fixed = {"tp": 8, "micro_batch": 1, "recompute": "full", "zero_stage": 0}
    trillion = planned("gpt-1t", "a100-sxm-80gb:3072", job, pp=64, **fixed, **interleaved)
    smaller = [job.model_copy(update={"global_batch": batch}) for batch in (24, 60)]
    plain = [planned("gpt3-175b", "a100-sxm-80gb:96", one, pp=12, schedule="1f1b", **fixed) for one in smaller]
    faster = [planned("gpt3-175b", "a100-sxm-80gb:96", one, pp=12, **fixed, **interleaved) for one in smaller]
    gains = [before.step_seconds / after.step_seconds - 1 for before, after in zip(plain, faster, strict=True)]
    reached = tflops(trillion, repeated=True)
    return Line(
        "163 TFLOP/s a device (52% of peak); interleaving +10% and more",
        f"{reached:.0f} ({reached / 312:.0%}); interleaving {gains[1]:+.0%} to {gains[0]:+.0%} (batch 60 and 24 on 96)",
        "The row is in the table that the constants are fitted to.",
    )


def _frontier() -> Line:
    """Dash et al. 2023, arXiv 2312.12705."""
    reached = []
    for model, devices in ((gpt(48, 6144, 48), 64), ("gpt3-175b", 1024), ("gpt-1t", 3072)):
        job = TrainingSpec(
            seq_len=2048,
            global_batch=max(512, devices),
            stack="megatron-deepspeed",
            precision=Precision(compute="fp16"),
        )
        reached.append(planned(model, f"mi250x:{devices}", job).hfu)
    small, medium, large = reached
    return Line(
        "22B 38.4%, 175B 36.1%, 1T 32.0% of peak",
        f"{small:.1%}, {medium:.1%}, {large:.1%}, for the planner's own choice",
        "Too fast. The abstract gives neither batch nor recompute. No measurement of an MI250X is behind our matmul rates, which are "
        "shares of peak as on NVIDIA's devices; the class of devices without measurements has the widest interval.",
    )


def _torchtitan() -> Line:
    """Liang et al. 2024, arXiv 2410.06511: 8B on 128, 70B on 256, 405B on 512 H100."""
    short, plain = (
        TrainingSpec(seq_len=8192, global_batch=256),
        {"dp_shard": 128, "micro_batch": 2, "recompute": "selective"},
    )
    eager, compiled = (
        planned("llama-3.1-8b", "h100-sxm:128", short.model_copy(update=how), **plain)
        for how in ({"stack": "torchtitan-eager"}, {"stack": "torchtitan", "precision": FP8})
    )
    wide = {"dp_shard": 32, "tp": 8, "micro_batch": 16, "recompute": "full"}
    sync, asynchronous = (
        planned(
            "llama-3.1-70b",
            "h100-sxm:256",
            TrainingSpec(seq_len=8192, global_batch=512, stack=stack, precision=FP8),
            **wide,
        )
        for stack in ("torchtitan", "torchtitan-async-tp")
    )
    deep = TrainingSpec(seq_len=8192, global_batch=128, stack="torchtitan-async-tp", precision=FP8)
    cube = {"dp_shard": 8, "tp": 8, "pp": 8, "micro_batch": 1, "recompute": "full"}
    single, double = (
        planned("llama-3.1-405b", "h100-sxm:512", deep, schedule=schedule, stages_per_rank=chunks, **cube)
        for schedule, chunks in (("1f1b", 1), ("interleaved-1f1b", 2))
    )
    gains = [
        slow.step_seconds / fast.step_seconds - 1
        for slow, fast in ((eager, compiled), (sync, asynchronous), (single, double))
    ]
    return Line(
        "+65.1% (1D: compile and float8), +12.6% (2D: async TP), +30% (3D: interleaved)",
        ", ".join(f"{gain:+.1%}" for gain in gains),
        "The batch of the 3D job is ours (16 microbatches on 8 stages); a smaller one gains more.",
    )


def _megascale() -> Line:
    """Jiang et al. 2024, arXiv 2402.15627: 175B on 12,288 devices. tp 8, pp 8, 6 chunks and batch 6,144 are of the paper's section 6."""
    cube = {"tp": 8, "pp": 8, "micro_batch": 1, "stages_per_rank": 6, "schedule": "interleaved-1f1b"}
    ours, theirs = (
        planned("gpt3-175b", "a100-sxm-80gb:12288", TrainingSpec(seq_len=2048, global_batch=6144, stack=stack), **cube)
        for stack in ("megatron-core-0.4", "megatron-lm")
    )
    return Line(
        "55.2% MFU, 1.34x Megatron-LM",
        f"{ours.mfu:.1%}, {theirs.step_seconds / ours.step_seconds:.2f}x",
        "By the stacks megatron-core-0.4, which overlaps tensor and data parallelism, and megatron-lm. The model of MegaScale computes "
        "attention and feed-forward of a layer at once and attends to windows; ours is GPT-3.",
    )


def _vocabulary() -> Line:
    """Yeung et al. 2024, arXiv 2411.05288."""
    gains = []
    for vocabulary in (32768, 262144):
        job = TrainingSpec(seq_len=2048, global_batch=128, stack="megatron-zero-bubble")
        model = gpt(32, 3072, 24, vocabulary=vocabulary)
        fixed = {"tp": 1, "pp": 8, "micro_batch": 1, "schedule": "1f1b", "recompute": "none"}
        whole, shared = (
            planned(model, "a100-sxm-80gb:8", job, **fixed, vocabulary_parallel=how).step_seconds
            for how in ("none", "vocab-1")
        )
        gains.append(whole / shared - 1)
    return Line(
        "+5% to +51%, more with a larger vocabulary",
        f"{gains[0]:+.0%} at 32k, {gains[1]:+.0%} at 256k, 32 layers of width 3,072 on 8 stages",
        "Against equal stages: with 256k rows the head costs as much as 7 of these layers (V / 12 h), and a stage has 4. Moving layers off "
        "the last stage, with which the paper compares, too, leaves less to gain.",
    )


PRETRAINING = (
    System("2", "Megatron-LM", check=_megatron),
    System("3", "PTD-P", check=_ptd_p),
    System("7", "TorchTitan", check=_torchtitan),
    System("8", "Frontier study", check=_frontier),
    System("9", "MegaScale", check=_megascale),
    System("12", "Vocabulary Parallelism", check=_vocabulary),
)
