"""Random problems small enough to try every plan of, with memory that binds and links that matter."""

import random
from typing import NamedTuple

from shardwright.specs.cluster import ClusterSpec, Host, Link, NodeGroup
from shardwright.specs.device import Device
from shardwright.specs.model.attention import MultiHeadAttention
from shardwright.specs.model.feed_forward import FeedForward, MixtureOfExperts
from shardwright.specs.model.model import Block, BlockRun, ModelSpec
from shardwright.specs.trainable import Trainable
from shardwright.specs.training import TrainingSpec


class Problem(NamedTuple):
    model: ModelSpec
    cluster: ClusterSpec
    training: TrainingSpec


def random_problem(seed: int) -> Problem:
    """The same problem for the same seed."""
    chance = random.Random(seed)
    model = tiny_model(
        layers=chance.choice([2, 3, 4, 4, 5]),
        classes=chance.choice([1, 1, 2]),
        hidden=chance.choice([256, 1024]),
        vocab=chance.choice([1000, 20000]),
        tied=chance.random() < 0.3,
        experts=chance.choice([0, 0, 4]),
    )
    devices = chance.choice([1, 2, 2, 4, 4, 6, 8])
    cluster = tiny_cluster(
        devices=devices,
        devices_per_node=chance.choice([d for d in (1, 2, 4, 8) if devices % d == 0]),
        memory_bytes=2e9 + model.parameter_count * chance.uniform(4, 30) / chance.choice([1, devices]),
        link_bytes_per_s=10 ** chance.uniform(9, 11.5),
        nic_bytes_per_s=10 ** chance.uniform(8.5, 10.5),
        host_bytes=model.parameter_count * chance.uniform(2, 40),
    )
    attention = chance.choice(["flash", "unfused"])
    training = TrainingSpec(
        seq_len=chance.choice([256, 1024, 4096]),
        global_batch=6 if devices == 6 else max(devices // 2, chance.choice([2, 4, 8])),
        attention=attention,
        trainable=_random_trainable(random.Random(f"trainable {seed}"), model),
    )
    return Problem(model.trained_as(training.trainable), cluster, training)


def _random_trainable(chance: random.Random, model: ModelSpec) -> Trainable:
    """Every weight in half of the problems; adapters, some beside weights in a lower format; or the last layers."""
    experts = any(isinstance(block.ffn, MixtureOfExperts) for block in model.layer_classes)
    base, targets = (
        chance.choice(["16bit"] if experts else ["16bit", "nf4"]),
        chance.choice(["attention", "all-linear", "q_proj+v_proj"]),
    )
    layers = chance.randint(1, model.layer_count)
    last = f"layers:{layers}{'' if model.tied_embeddings else chance.choice(['', '+head'])}"
    adapters = f"lora:r={chance.choice([4, 64])},targets={targets},base={base}"
    return Trainable.model_validate(chance.choice(["all", "all", adapters, last]))


def tiny_model(
    *, layers: int, classes: int = 1, hidden: int = 256, vocab: int = 1000, tied: bool = False, experts: int = 0
) -> ModelSpec:
    """Layers of one kind, or of two in turn. With `experts`, the first kind has that many."""
    dense = [FeedForward(width=hidden * (4 if kind == 0 else 8), gated=True) for kind in range(classes)]
    sparse = MixtureOfExperts(experts=max(1, experts), top_k=min(2, max(1, experts)), expert_width=hidden * 2)
    blocks = [
        Block(attention=MultiHeadAttention(heads=4, kv_heads=2, head_size=hidden // 4), ffn=ffn)
        for ffn in ([sparse, *dense[1:]] if experts else dense)
    ]
    return ModelSpec(
        name="tiny",
        family="llama",
        hidden_size=hidden,
        vocab_size=vocab,
        blocks=tuple(BlockRun(count=1, block=blocks[index % classes]) for index in range(layers)),
        tied_embeddings=tied,
    )


def tiny_cluster(
    *,
    devices: int,
    devices_per_node: int | None = None,
    memory_bytes: float = 16e9,
    link_bytes_per_s: float = 100e9,
    nic_bytes_per_s: float = 10e9,
    host_bytes: float = 1e12,
) -> ClusterSpec:
    """Nodes of small GPUs."""
    per_node = devices_per_node or devices
    device = Device(
        name="tiny-gpu",
        memory_bytes=memory_bytes,
        memory_bytes_per_s=500e9,
        peak_flops_per_s={"bf16": 50e12, "fp32": 10e12},
        multiprocessors=20,
        launch_seconds=3e-6,
        context_bytes=1e8,
    )
    group = NodeGroup(
        device=device,
        nodes=devices // per_node,
        devices_per_node=per_node,
        intra_node=Link(kind="nvlink", bytes_per_s=link_bytes_per_s, latency_seconds=5e-6),
        host_link=Link(kind="pcie", bytes_per_s=10e9, latency_seconds=1e-5),
        nic=Link(kind="infiniband", bytes_per_s=nic_bytes_per_s, latency_seconds=1e-5),
        host=Host(cores=16, memory_bytes=host_bytes, memory_bytes_per_s=100e9),
    )
    return ClusterSpec(name="tiny", groups=(group,))
