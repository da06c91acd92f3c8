"""Mixtures of experts."""

from shardwright.catalog import load_cluster
from shardwright.catalog.huggingface import load_model, model_from_config
from shardwright.specs import PER_CENTROID, ClusterSpec, Precision, TrainingSpec
from shardwright.specs.model import BlockRun, MixtureOfExperts, ModelSpec

from .setups import Line, System, gpt, planned


def _folding() -> Line:
    """Liu et al. 2025, arXiv 2504.14960: Mixtral 8x22B on 128 H100, Qwen2-57B-A14B on 64, 4,096 tokens, batch 256."""
    reached = []
    for model, devices in (("mixtral-8x22b", 128), ("qwen2-57b-a14b", 64)):
        job = TrainingSpec(seq_len=4096, global_batch=256, stack="megatron-core-0.8")
        reached.append(planned(model, f"h100-sxm:{devices}", job).mfu)
    return Line(
        "Mixtral 8x22B 49.3% MFU, Qwen2-57B-A14B 39.0%",
        f"{reached[0]:.1%}, {reached[1]:.1%}, for the planner's own mesh",
        "Stack megatron-core-0.8, the release of that time. Numbers of devices and the batch are of the paper's first table as we know it.",
    )


def _exchange() -> Line:
    """Pan et al. 2025, FSMoE: the all-to-all beside compute, on RTX A6000 and 2080 Ti."""
    job = TrainingSpec(seq_len=2048, global_batch=4096, stack="megatron-core")
    fixed = {
        "ep": 4,
        "tp": 1,
        "pp": 2,
        "micro_batch": 1,
        "schedule": "interleaved-1f1b",
        "stages_per_rank": 2,
        "recompute": "none",
    }
    model, cluster = "qwen1.5-moe-a2.7b", "rtx-a6000:32"
    ways: tuple[dict[str, bool | int], ...] = (
        {},
        {"overlaps_dispatch": True},
        *({"dispatch_pieces": pieces} for pieces in (2, 4)),
    )
    apart, beside, *in_pieces = (planned(model, cluster, job.model_copy(update=way), **fixed) for way in ways)
    share = apart.step.expert_parallel / apart.step_seconds
    best = min(each.step_seconds for each in in_pieces)
    return Line(
        "1.18 to 1.22x on 1,458 layers",
        f"{apart.step_seconds / best:.2f}x in pieces beside the layer's own experts, {apart.step_seconds / beside.step_seconds:.2f}x beside another microbatch, "
        f"for Qwen1.5-MoE on 32 A6000, where the exchange is {share:.0%} of the step",
        "1.18x needs an exchange of 15% of the step at least. An expert here gets 137 tokens of a microbatch, and its smaller matmuls cost more than two pieces hide. Slices of gradients that FSMoE sends in gaps, and exchanges inside a node beside those between "
        "nodes, are not modelled; layers of the paper are others.",
    )


def _clustered() -> Line:
    """Nie et al. 2024, LSH-MoE, arXiv 2411.08446: GPT-MoE (15B) on two servers of 8 V100 with one NIC of 100 Gb/s (sections 4.2 to 4.4)."""
    cluster = load_cluster("v100-sxm-32gb:16@infiniband-edr")
    group = cluster.groups[0].model_copy(update={"nics_per_node": 1})
    cluster = cluster.model_copy(update={"groups": (group,)})
    job = TrainingSpec(seq_len=128, global_batch=256, precision=Precision(compute="fp16"))
    fixed = {"ep": 16, "tp": 1, "pp": 1, "cp": 1, "recompute": "none"}
    every, means = (
        planned(_gpt_moe(), cluster, job.model_copy(update={"tokens_per_centroid": tokens}), **fixed)
        for tokens in (1, PER_CENTROID)
    )
    share = every.step.expert_parallel / every.step_seconds
    gone = (every.step.expert_parallel - means.step.expert_parallel) / every.step_seconds
    return Line(
        "1.28 to 2.2x with an exchange of 45% on average; GPT-MoE (15B) 1.3 to 1.4x",
        f"GPT-MoE (15B) {every.step_seconds / means.step_seconds:.2f}x with means of {PER_CENTROID} tokens, an exchange of {share:.0%}",
        f"A fifth of the exchange alone gives {1 / (1 - gone):.2f}x; experts compute the means too. The batch of 256 x 128 is ours, and with more tokens the "
        "exchange is a larger share. T5, RoBERTa and Swin have encoders. 2.2x from an exchange of 45% needs the experts' part as well: without it "
        "1.82x is the most.",
    )


def _hot() -> Line:
    """Qing et al. 2025, Hecate, arXiv 2502.02581: GPT-MoE-S on four nodes of 8 A100 with four NICs of 100 Gb/s."""
    group = load_cluster("a100-sxm-40gb:32@efa-100g").groups[0].model_copy(update={"nics_per_node": 4})
    cluster = ClusterSpec(name="p4d", groups=(group,))
    fixed = {"ep": 32, "tp": 1, "pp": 1, "cp": 1, "recompute": "none"}
    gains, most = [], 8
    for imbalance in (2.0, 4.0, 8.0):
        job = TrainingSpec(seq_len=2048, global_batch=256, stack="megatron-core", expert_imbalance=imbalance)
        still, hot = (
            planned(_gpt_moe_small(), cluster, job.model_copy(update={"hot_experts": count}), **fixed).step_seconds
            for count in (0, most)
        )
        gains.append(f"{still / hot:.1f}x")
    return Line(
        "up to 3.54x",
        f"GPT-MoE-S: {', '.join(gains)} with {most} of 64 hot experts on all of 32 A100, where the busiest rank gets 2, 4 and 8 times the mean",
        "How uneven the load was is not told as one number. Loads are taken to follow a power law, the hottest experts together on one rank. Baselines of the "
        "paper also move experts; ours leaves them where they are. Experts of a microbatch that it releases and gathers again are not modelled.",
    )


def _pangu() -> Line:
    """Tang et al. 2025, Pangu Ultra MoE, arXiv 2505.04519: 718B on 6,000 Ascend, 8,192 tokens."""
    job = TrainingSpec(seq_len=8192, global_batch=6144, stack="megatron-core")
    estimate = planned(_pangu_ultra(), "ascend-910b:6144", job)
    return Line(
        "718B on 6K NPUs: 30.0% MFU",
        f"{estimate.mfu:.1%} for the planner's own plan",
        "Too fast. No measurement on an Ascend is behind our rates, and software of NVIDIA's (megatron-core) stands for theirs. The sizes of heads and of "
        "compressed keys are taken from DeepSeek-V3, the batch is ours.",
    )


def _longcat() -> Line:
    """Meituan 2025, LongCat-Flash, arXiv 2509.01322: 560B, 20T tokens in 30 days."""
    model = load_model("longcat-flash")
    expert = 28 * 3 * 6144 * 2048
    mean = model.active_parameter_count - model.vocab_size * model.hidden_size
    job = TrainingSpec(seq_len=8192, global_batch=4096, stack="megatron-core")
    fixed = {"tp": 1, "pp": 7, "ep": 32, "cp": 1, "micro_batch": 1, "recompute": "full"}
    apart, beside = (
        planned(model, "h800-sxm:1792", job.model_copy(update={"overlaps_dispatch": overlaps}), **fixed)
        for overlaps in (False, True)
    )
    share = apart.step.expert_parallel / (apart.step_seconds - apart.step.pipeline_bubble)
    tokens_per_s = job.global_batch * job.seq_len / beside.step_seconds
    return Line(
        "18.6B to 31.3B parameters active, 27B on average; 20T tokens in 30 days",
        f"{(mean - 8 * expert) / 1e9:.1f}B to {(mean + 4 * expert) / 1e9:.1f}B, {mean / 1e9:.1f}B; the shortcut makes the step "
        f"{apart.step_seconds / beside.step_seconds:.2f}x faster where the exchange is {share:.0%} of it without the bubble; on 1,792 H800 30 days are {tokens_per_s * 30 * 86400 / 1e12:.0f}T tokens",
        "The paper leaves the embedding out, and devices are not told: 1,792 H800, the batch and the mesh (pp 7, ep 32, full recompute) are ours. Each choice "
        "of the router is taken to get as many tokens as any other.",
    )


def _gpt_moe() -> ModelSpec:
    """Artetxe et al. 2021, arXiv 2112.10684: 12 layers of width 768, each second one with 512 experts of which two compute a token."""
    plain = gpt(12, 768, 12)
    dense = plain.blocks[0].block
    experts = MixtureOfExperts(experts=512, top_k=2, expert_width=4 * 768, gated=False)
    blocks = tuple(BlockRun(count=1, block=dense.model_copy(update={"ffn": ffn})) for ffn in (dense.ffn, experts) * 6)
    return plain.model_copy(update={"name": "gpt-moe-15b", "blocks": blocks})


def _gpt_moe_small() -> ModelSpec:
    """12 layers of width 768, each with 64 experts of width 1,536 of which two compute a token: 1.9 G parameters."""
    plain = gpt(12, 768, 12)
    experts = MixtureOfExperts(experts=64, top_k=2, expert_width=2 * 768, gated=False)
    block = plain.blocks[0].block.model_copy(update={"ffn": experts})
    return plain.model_copy(update={"name": "gpt-moe-s", "blocks": (BlockRun(count=12, block=block),)})


def _pangu_ultra() -> ModelSpec:
    """61 layers of width 7,680, 256 experts of which 8 compute a token, latent attention."""
    config = {
        "model_type": "deepseek_v3",
        "vocab_size": 153600,
        "hidden_size": 7680,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "n_shared_experts": 1,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 3,
        "q_lora_rank": 1536,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
        "max_position_embeddings": 8192,
        "n_group": 8,
        "topk_group": 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
    return model_from_config(config, name="pangu-ultra-moe", source="benchmarks/systems")


EXPERTS = (
    System("24", "FSMoE", check=_exchange),
    System("24", "LSH-MoE", check=_clustered),
    System("24", "Hecate (FSSDP)", check=_hot),
    System("25", "MoE Parallel Folding", check=_folding),
    System("26", "Pangu Ultra MoE", check=_pangu),
    System("26", "LongCat-Flash", check=_longcat),
)
