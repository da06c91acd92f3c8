"""Pipelines by hand, slow networks, runs that go on."""

from shardwright.catalog import devices, load_cluster
from shardwright.catalog.huggingface import load_model, model_from_config
from shardwright.planner import Fixed, search
from shardwright.planner.mixed import search_mixed
from shardwright.planner.nearby import skipping
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


def _skippipe() -> Line:
    """Blagoev et al. 2025, arXiv 2502.19913: a LLaMa of 1.4B on eight nodes of one device each, three layers on each."""
    sizes = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16}
    model = model_from_config({"model_type": "llama", "vocab_size": 32000, **sizes}, name="llama-1.4b", source="paper")
    job = TrainingSpec(seq_len=2048, global_batch=32)
    less, alone = [], []
    for nic in ("ethernet-1g", "ethernet-100g"):
        group = load_cluster(f"a100-sxm-40gb:8@{nic}").groups[0]
        single = group.model_copy(update={"nodes": 8, "devices_per_node": 1, "nics_per_node": 1})
        cluster = ClusterSpec(name="nodes of one device", groups=(single,))
        plain, twice = (
            search(model, cluster, job, fixed=Fixed(pp=8, schedule=name), runners_up=0) for name in ("1f1b", "zb-2p")
        )
        seconds = plain.estimate.step_seconds
        short = skipping(plain, model, cluster, job, Fixed(pp=8, approximate=("skippipe",))).estimate
        less.append(f"{1 - short.step_seconds / seconds:.0%}")
        alone.append(f"{1 - twice.estimate.step_seconds / seconds:.0%}")
    return Line(
        "up to 55% less time an iteration; LLaMa 500M to 8B on up to 20 nodes",
        f"{less[0]} less than 1F1B with 1 Gb/s between eight A100, {less[1]} with 100 Gb/s, for 1.4B in eight stages, a quarter left out",
        f"On slow links most of it is not the layers: twice as many microbatches are in flight beside the messages. ZB-2p, which has as many and leaves "
        f"nothing out, takes {alone[0]} and {alone[1]} less. Nodes of the paper have links of many speeds, and its paths choose among them and swap stages; "
        "ours do neither.",
    )


def _ladder() -> Line:
    """Zhang et al. 2025, arXiv 2501.06589: Llama-3.1-70B over tp 8, with NVLink and without."""
    job = TrainingSpec(seq_len=8192, global_batch=64, stack="torchtitan")
    plain = load_model("llama-3.1-70b")
    ladder = model_from_config(plain.config | {"ladder_residual": True}, name="ladder-70b", source="benchmarks/systems")
    fixed = {"tp": 8, "cp": 1, "micro_batch": 1, "recompute": "full", "schedule": "1f1b"}
    setups = ({"pp": 4, "zero_stage": 1}, {"pp": 1, "zero_stage": 3})
    gains, shares = [], []
    for setup in setups:
        for cluster in ("h100-sxm:64", "h100-pcie:64"):
            whole, hidden = (planned(model, cluster, job, **fixed, **setup) for model in (plain, ladder))
            gains.append(f"{whole.step_seconds / hidden.step_seconds:.2f}x")
            shares.append(f"{whole.step.tensor_parallel / whole.step_seconds:.0%}")
    return Line(
        "1.3x at inference, 70B over tp 8: 23% of the time was such exchanges",
        f"training, pp 4 and ZeRO-1: {gains[0]} on H100 with NVLink, where exchanges over tp are {shares[0]} of a step, {gains[1]} on H100 with PCIe ({shares[1]}); "
        f"pp 1 and ZeRO-3: {gains[2]} ({shares[2]}) and {gains[3]} ({shares[3]})",
        "The paper claims no figure for training. A backward computes twice as much beside the same exchanges, and an exchange beside compute takes multiprocessors from it. "
        "64 devices, both meshes and full recompute are ours.",
    )


def _palm() -> Line:
    """Chowdhery et al. 2022, arXiv 2204.02311, section 4: 540B on two pods of 3,072 TPU v4, each 12 ways of tensor parallelism and 256 of shards."""
    config = {
        "model_type": "cohere",  # attention and feed-forward side by side, one norm, gated, tied, without biases
        "num_hidden_layers": 118,
        "hidden_size": 18432,
        "intermediate_size": 73728,
        "num_attention_heads": 48,
        "num_key_value_heads": 12,
        "head_dim": 256,
        "vocab_size": 256000,
        "max_position_embeddings": 2048,
    }
    model = model_from_config(config, name="palm-540b", source="benchmarks/systems")
    job = TrainingSpec(seq_len=2048, global_batch=2048, stack="xla")
    fixed = {"dp_shard": 256, "tp": 12, "pp": 1, "recompute": "full", "sequence_parallel": False}
    one, two = (
        planned(
            model,
            f"tpu-v4:{devices}",
            job.model_copy(update={"global_batch": devices // 3}),
            **fixed,
            dp_replicate=devices // 3072,
        )
        for devices in (3072, 6144)
    )
    return Line(
        "46.2% MFU; two pods 1.95x as fast as one",
        f"{two.mfu:.1%}; two pods {2 * one.step_seconds / two.step_seconds:.2f}x as fast as one with half the batch",
        "Nothing is fitted to a TPU. Twelve key-value heads stand for the one of the model, which each rank of tp holds. Full recompute is ours: the paper's 57.8% of hardware "
        "FLOPs say that a little less was repeated. One NIC of 100 Gb/s a host is assumed.",
    )


def _one_bit() -> Line:
    """Tang et al. 2021, arXiv 2102.02888: BERT-Large on nodes of 4 V100 with Ethernet, sequences of 128 tokens. A GPT-2 of as many
    layers of that width stands for it, and A100 in bf16 for V100 in fp16, whose gradients are not finite at times."""
    job = TrainingSpec(seq_len=128, global_batch=1024)
    fixed = {"dp_replicate": 64, "micro_batch": 16, "recompute": "none"}
    cluster = load_cluster("a100-pcie-40gb:64@1x-ethernet-10g")
    exact, one_bit = (planned("gpt2-355m", cluster, job, **fixed, sync=sync) for sync in ("exact", "1-bit-adam"))
    share = exact.step.data_parallel / exact.step_seconds
    return Line(
        "up to 3.3x with 5x less volume: 87% of a step is communication",
        f"{exact.step_seconds / one_bit.step_seconds:.1f}x after the warm-up; {share:.0%} of the exact step is communication",
        "One NIC of 10 Gb/s to a node, and one microbatch a step. With NICs as slow as the paper's table of all-reduces says, the share passes 87% between "
        "one and four microbatches (tests/costmodel/test_published_synchronisation.py).",
    )


def _streaming() -> Line:
    """Douillard et al. 2025, arXiv 2501.18512: fragments in turn, 4 bits."""
    often = TrainingSpec(seq_len=2048, global_batch=64)
    fixed = {"dp_replicate": 2, "dp_shard": 8, "tp": 1, "pp": 1, "cp": 1, "recompute": "full"}
    cluster = load_cluster("h100-sxm:16@ethernet-10g")
    exact, diloco, streaming = (
        planned("llama-3.2-1b", cluster, often, **fixed, sync=sync) for sync in ("exact", "diloco", "streaming-diloco")
    )
    hidden = streaming.step.data_parallel / exact.step.data_parallel
    return Line(
        "two orders of magnitude less bandwidth",
        f"exposed exchange of a step {hidden:.4f} of the exact one; {exact.step_seconds / streaming.step_seconds:.1f}x the exact step's speed, DiLoCo "
        f"{exact.step_seconds / diloco.step_seconds:.1f}x",
        "Llama-3.2-1B on two nodes of 8 H100 joined by 10 Gb/s, with this project's settings of both methods (docs/planner.md).",
    )


NETWORKS = (
    System(
        "1",
        "Galvatron",
        "No figure in the abstract. ZeRO stage, recompute and offload are chosen layer class by layer class, and by stage; tp is one degree for "
        "all layers. `plan --phases` plans each phase of a training, and what the switches between them take.",
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
    System("9", "PaLM, Pathways", check=_palm),
    System("10", "Holmes", check=_holmes),
    System("11", "SkipPipe", check=_skippipe),
    System("27", "1-bit Adam", check=_one_bit),
    System("27", "Streaming DiLoCo", check=_streaming),
    System(
        "27",
        "CO2",
        "No figure in the abstract. `--allow-approximate co2` takes the fewest inner steps behind which the exchange hides "
        "([planner.md](planner.md#approximations-between-replicas)).",
    ),
    System("13", "Ladder-residual", check=_ladder),
    System(
        "14",
        "Sequence Parallelism (ring self-attention)",
        "13.7x the batch of tensor parallelism on 64 P100, for BERT. Ring attention is an axis and runs; BERT is no causal model, and the "
        "ratio counts attention matrices that fused attention does not keep.",
    ),
    System(
        "16",
        "SeCO, SpaCO",
        "SeCO keeps what a piece needs to run again, as StreamBP does; SpaCO leaves out the gradients of most pieces, which is not modelled.",
    ),
    System(
        "23",
        "DeepSpeed-MoE, SE-MoE",
        "5x less cost at equal quality, and inference. Experts that differ by layer and shared experts are read; experts are not fetched by the router's choice, because in training nearly all have tokens (docs/offload.md).",
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
