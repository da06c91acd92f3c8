"""The shapes of attention: multi-head with its grouped variants, multi-head latent, linear (linear_attention.py), and none."""

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from shardwright.specs import PositiveInt, Spec

from .linear_attention import GatedDelta, Lightning, Mamba2
from .parameter import Parameter


class MultiHeadAttention(Spec):
    """Multi-head, grouped-query (kv_heads < heads) or multi-query (kv_heads = 1) attention.

    `window` limits how many tokens back a query looks (None: all). `qk_norm` normalises queries and keys per head,
    per head with weights of its own ("each_head"), or over the whole projection. `sinks` adds one learned logit a head (gpt-oss). `capped`: scores pass a tanh before the softmax (Gemma 2). `output_gate`: the projection of the queries
    also makes a gate of each output (Qwen3-Next).
    """

    kind: Literal["multi_head"] = "multi_head"
    heads: PositiveInt
    kv_heads: PositiveInt
    head_size: PositiveInt
    window: PositiveInt | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: Literal["none", "per_head", "each_head", "whole"] = "none"
    qk_norm_bias: bool = False
    sinks: bool = False
    capped: bool = False
    output_gate: bool = False

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        return self

    @property
    def value_head_size(self) -> int:
        return self.head_size

    @property
    def query_width(self) -> int:
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_size

    def parameters(self, hidden_size: int) -> list[Parameter]:
        qkv = (1 + self.output_gate) * self.query_width + 2 * self.kv_width
        weights = [
            Parameter("attention.qkv", hidden_size * qkv + qkv * self.qkv_bias, split=True),
            Parameter("attention.output", self.query_width * hidden_size, split=True),
            Parameter("attention.output_bias", hidden_size * self.output_bias, split=False),
            Parameter("attention.sinks", self.heads * self.sinks, split=True),
        ]
        whole = self.query_width + self.kv_width
        width = {"none": 0, "per_head": 2 * self.head_size, "each_head": whole, "whole": whole}[self.qk_norm]
        # ranks of tp share weights of single heads
        norm = Parameter("attention.qk_norm", width * (1 + self.qk_norm_bias), split=self.qk_norm == "each_head")
        return [*weights, norm]


class LatentAttention(Spec):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    Queries come from a latent of `query_rank` (None: straight from the hidden state), keys and values from one of
    `kv_rank`, each normalised; each query and key head has `plain_size` plain and `rotary_size` rotary elements, each
    value head `value_head_size`. `bias` is on the projections down to the latents and on the output.
    """

    kind: Literal["latent"] = "latent"
    heads: PositiveInt
    query_rank: PositiveInt | None
    kv_rank: PositiveInt
    plain_size: PositiveInt
    rotary_size: PositiveInt
    value_head_size: PositiveInt
    bias: bool = False

    @property
    def kv_heads(self) -> int:
        return self.heads

    @property
    def window(self) -> None:
        return None

    @property
    def head_size(self) -> int:
        """Elements of one query or key head, the rotary ones included."""
        return self.plain_size + self.rotary_size

    def parameters(self, hidden_size: int) -> list[Parameter]:
        query_width = self.heads * self.head_size
        kv_width = self.heads * (self.plain_size + self.value_head_size)
        if self.query_rank is None:
            query = [Parameter("attention.query", hidden_size * query_width, split=True)]
        else:
            query = [
                Parameter(
                    "attention.query_down", (hidden_size + self.bias) * self.query_rank + self.query_rank, split=False
                ),
                Parameter("attention.query_up", self.query_rank * query_width, split=True),
            ]
        latent_width = self.kv_rank + self.rotary_size
        return [
            *query,
            Parameter("attention.kv_down", (hidden_size + self.bias) * latent_width + self.kv_rank, split=False),
            Parameter("attention.kv_up", self.kv_rank * kv_width, split=True),
            Parameter("attention.output", self.heads * self.value_head_size * hidden_size, split=True),
            Parameter("attention.output_bias", hidden_size * self.bias, split=False),
        ]


class NoAttention(Spec):
    """In place of attention, in a layer that is a feed-forward alone (Nemotron-H)."""

    kind: Literal["none"] = "none"
    heads: ClassVar[int] = 0
    kv_heads: ClassVar[int] = 0
    head_size: ClassVar[int] = 0
    value_head_size: ClassVar[int] = 0
    window: ClassVar[None] = None

    def parameters(self, hidden_size: int) -> list[Parameter]:
        return []


AnyAttention = MultiHeadAttention | LatentAttention | GatedDelta | Mamba2 | Lightning | NoAttention
