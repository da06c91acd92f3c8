"""Round numbers: operation times and small specs whose costs can be worked out by hand."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from shardwright.base.arrays import Array, Number
from shardwright.costmodel.op_times.constants import CALIBRATED, Constants
from shardwright.costmodel.op_times.protocol import CollectiveName, MatmulPart, Operator
from shardwright.specs.cluster import ClusterSpec, Host, Link, NodeGroup
from shardwright.specs.device import Device
from shardwright.specs.mesh import RankGroup
from shardwright.specs.model.attention import MultiHeadAttention
from shardwright.specs.model.feed_forward import FeedForward, MixtureOfExperts
from shardwright.specs.model.model import Block, BlockRun, ModelSpec
from shardwright.specs.training import LinearFormat


@dataclass(frozen=True)
class RoundTimes:
    """1 second per TFLOP, half of it in low precision, 1 per GB of collective, per 10 GB copied; memory traffic is free."""

    basis: Literal["catalog", "profile"] = "catalog"
    constants: Constants = CALIBRATED
    node: NodeGroup = field(default_factory=lambda: round_cluster().node, repr=False)
    error_deviation: float | None = None

    def matmul_seconds(
        self,
        m: Number,
        k: Number,
        n: Number,
        *,
        groups: Number = 1,
        low: LinearFormat | None = None,
        part: MatmulPart = "forward",
        looped: bool = False,
    ) -> Array:
        return np.asarray(2.0 * m * k * n * groups * (0.5e-12 if low else 1e-12))

    def attention_seconds(
        self, flops: Number, *, head_size: Number, seq_len: Number, backward: bool, value_size: Number | None = None
    ) -> Array:
        return np.asarray(flops * 1e-12)

    def memory_bound_seconds(self, moved_bytes: Number) -> Array:
        return np.zeros_like(np.asarray(moved_bytes, dtype=float))

    def cast_seconds(self, moved_bytes: Number, low: LinearFormat) -> Array:
        return self.memory_bound_seconds(moved_bytes)

    def operator_seconds(
        self, operator: Operator, elements: Number, moved_bytes: Number, *, backward: bool = False
    ) -> Array:
        return self.memory_bound_seconds(moved_bytes)

    def with_launches_seconds(self, busy_seconds: Number, kernels: Number) -> Array:
        return np.asarray(busy_seconds)

    def collective_seconds(self, name: CollectiveName, size_bytes: Number, group: RankGroup) -> Array:
        return np.where(group.ranks > 1, np.asarray(size_bytes, dtype=float) * 1e-9, 0.0)

    def sharding_seconds(self, parameter_bytes: Number, microbatches: Number, repeats: Number) -> Array:
        return np.zeros(np.broadcast(parameter_bytes, microbatches, repeats).shape)

    def host_copy_seconds(self, size_bytes: Number) -> Array:
        return np.asarray(size_bytes * 1e-10)

    def host_update_seconds(self, parameters: Number, moved_bytes: Number) -> Array:
        return np.asarray(moved_bytes * 1e-9)


def small_model(*, layers: int = 4, hidden: int = 64, tied: bool = False) -> ModelSpec:
    """Llama-like: 4 heads, 2 KV heads, feed-forward 2 x hidden, 1000 words."""
    block = Block(
        attention=MultiHeadAttention(heads=4, kv_heads=2, head_size=hidden // 4),
        ffn=FeedForward(width=2 * hidden, gated=True),
    )
    return ModelSpec(
        name="small",
        family="llama",
        hidden_size=hidden,
        vocab_size=1000,
        blocks=(BlockRun(count=layers, block=block),),
        tied_embeddings=tied,
    )


def small_experts(*, layers: int = 4, hidden: int = 64) -> ModelSpec:
    """The same with eight experts of half that width, two for each token, and a shared one as wide."""
    plain = small_model(layers=layers, hidden=hidden).blocks[0].block
    experts = MixtureOfExperts(experts=8, top_k=2, expert_width=hidden, shared_width=hidden)
    block = Block(attention=plain.attention, ffn=experts)
    return ModelSpec(
        name="small experts",
        family="qwen3_moe",
        hidden_size=hidden,
        vocab_size=1000,
        blocks=(BlockRun(count=layers, block=block),),
    )


def round_cluster(
    *, nodes: int = 2, devices_per_node: int = 4, memory_bytes: float = 80e9, kind: Literal["gpu", "cpu"] = "gpu"
) -> ClusterSpec:
    """100 TFLOP/s, 1 TB/s, 100 GB/s inside a node, one 10 GB/s NIC for each device."""
    device = Device(
        name="round", kind=kind, memory_bytes=memory_bytes, memory_bytes_per_s=1e12, multiprocessors=100, matmul_share=1.0,
        peak_flops_per_s={"bf16": 100e12, "fp32": 10e12}, launch_seconds=1e-6,
    )  # fmt: skip
    group = NodeGroup(
        device=device,
        nodes=nodes,
        devices_per_node=devices_per_node,
        intra_node=Link(kind="nvlink", bytes_per_s=100e9, latency_seconds=1e-6),
        host_link=Link(kind="pcie", bytes_per_s=25e9, latency_seconds=1e-6),
        nics_per_node=devices_per_node,
        nic=Link(kind="infiniband", bytes_per_s=10e9, latency_seconds=2e-6),
        host=Host(cores=64, memory_bytes=1e12, memory_bytes_per_s=200e9),
    )
    return ClusterSpec(name="round", groups=(group,))
