"""Small Llamas that this machine's CPU trains within seconds, to compare predictions with runs."""

from dataclasses import dataclass
from typing import Any, Literal

from shardwright.catalog.huggingface import model_from_config
from shardwright.costmodel import PlanFile
from shardwright.specs import ClusterSpec, LayerRun, Mesh, Plan, Precision, Stage, TrainingSpec
from shardwright.specs.model import ModelSpec


@dataclass(frozen=True, kw_only=True)
class OwnConfiguration:
    """A Llama of `layers` layers with untied embeddings, and how one rank trains it.

    Sizes are elements (`hidden`, `width` of the feed-forward), heads, tokens (`length`, `vocabulary`) and sequences (`micro_batch`).
    """

    hidden: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    length: int
    micro_batch: int
    microbatches: int = 1
    vocabulary: int = 512
    recompute: Literal["none", "full"] = "none"
    compute: Literal["fp32", "bf16"] = "fp32"

    @property
    def name(self) -> str:
        """A unique name of everything in which configurations differ."""
        parts = [
            f"h{self.hidden}/{self.width} a{self.heads}/{self.kv_heads} L{self.layers}",
            f"s{self.length} b{self.micro_batch}x{self.microbatches} v{self.vocabulary}",
            *(["recompute"] if self.recompute == "full" else []),
            *([self.compute] if self.compute != "fp32" else []),
        ]
        return " ".join(parts)

    @property
    def config_json(self) -> dict[str, Any]:
        """The model as a Hugging Face config.json."""
        return {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": self.hidden,
            "intermediate_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.hidden // self.heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 2048,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }

    @property
    def model(self) -> ModelSpec:
        return model_from_config(self.config_json, name=self.name, source=self.name)

    @property
    def training(self) -> TrainingSpec:
        return TrainingSpec(
            seq_len=self.length,
            global_batch=self.micro_batch * self.microbatches,
            precision=Precision(compute=self.compute),
        )

    @property
    def plan(self) -> Plan:
        layers = LayerRun(count=self.layers, recompute=self.recompute)
        return Plan(
            mesh=Mesh(),
            micro_batch=self.micro_batch,
            microbatches=self.microbatches,
            stages=(Stage(layers=(layers,)),),
        )

    def plan_file(self, cluster: ClusterSpec) -> PlanFile:
        """The plan file to train from; `cluster` is one rank of this machine."""
        return PlanFile(
            model_name=self.name,
            model_config_json=self.config_json,
            cluster=cluster,
            training=self.training,
            plan=self.plan,
        )


# Step times span a factor of thirty on two server cores, each about a third above the one before. Neighbours differ in
# more than one size, so that no single rate can order them.
TWELVE = (
    OwnConfiguration(hidden=128, width=512, layers=4, heads=4, kv_heads=4, length=512, micro_batch=2),
    OwnConfiguration(hidden=256, width=768, layers=3, heads=8, kv_heads=4, length=128, micro_batch=8),
    OwnConfiguration(hidden=192, width=512, layers=7, heads=6, kv_heads=2, length=256, micro_batch=4),
    OwnConfiguration(
        hidden=256, width=1024, layers=3, heads=4, kv_heads=4, length=512, micro_batch=2, recompute="full"
    ),
    OwnConfiguration(hidden=512, width=1536, layers=2, heads=8, kv_heads=8, length=128, micro_batch=8, vocabulary=4096),
    OwnConfiguration(hidden=384, width=768, layers=3, heads=6, kv_heads=6, length=1024, micro_batch=1, microbatches=2),
    OwnConfiguration(hidden=320, width=896, layers=8, heads=5, kv_heads=5, length=256, micro_batch=2, microbatches=3),
    OwnConfiguration(hidden=512, width=1408, layers=4, heads=8, kv_heads=2, length=512, micro_batch=4),
    OwnConfiguration(
        hidden=768, width=1536, layers=3, heads=12, kv_heads=4, length=256, micro_batch=8, vocabulary=2048
    ),
    OwnConfiguration(
        hidden=512, width=2048, layers=4, heads=8, kv_heads=8, length=1024, micro_batch=2, recompute="full"
    ),
    OwnConfiguration(
        hidden=768, width=2048, layers=4, heads=12, kv_heads=12, length=512, micro_batch=2, microbatches=2
    ),
    OwnConfiguration(
        hidden=768, width=2048, layers=8, heads=12, kv_heads=6, length=384, micro_batch=3, recompute="full"
    ),
)
"""In fp32: width, depth, length, micro batch, microbatches, vocabulary, heads and recompute differ."""

IN_BF16 = (
    OwnConfiguration(hidden=256, width=1024, layers=4, heads=4, kv_heads=4, length=512, micro_batch=2, compute="bf16"),
    OwnConfiguration(hidden=512, width=1408, layers=4, heads=8, kv_heads=2, length=256, micro_batch=4, compute="bf16"),
    OwnConfiguration(
        hidden=768,
        width=2048,
        layers=4,
        heads=12,
        kv_heads=12,
        length=512,
        micro_batch=2,
        compute="bf16",
        recompute="full",
    ),
)
"""Beside the twelve: what is computed in bf16, which no target is set for."""
