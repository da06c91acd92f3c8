"""The model: a run-length list of blocks between an embedding and a head, counted to the parameter."""

from functools import cached_property
from typing import Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from .spec import NonNegativeInt, PositiveInt, Spec


class Parameter(NamedTuple):
    """One weight of a block or of the model's ends.

    `elements` counts the whole tensor. `split` says that tensor parallelism divides it (else every tp rank holds it
    whole); `expert` that it belongs to one of the routed experts, which expert parallelism divides.
    """

    name: str
    elements: int
    split: bool
    expert: bool = False


class Norm(Spec):
    """One kind of normalisation; `bias` for a layer norm that has one, `weight` false for one without parameters."""

    kind: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    weight: bool = True
    bias: bool = False

    def parameters(self, name: str, width: int) -> list[Parameter]:
        return [Parameter(name, width * (self.weight + self.bias), split=False)]


class MultiHeadAttention(Spec):
    """Multi-head, grouped-query (kv_heads < heads) or multi-query (kv_heads = 1) attention.

    `window` limits how many tokens back a query looks (None: all). `qk_norm` normalises queries and keys per head,
    or over the whole projection. `sinks` adds one learned logit a head (gpt-oss).
    """

    kind: Literal["multi_head"] = "multi_head"
    heads: PositiveInt
    kv_heads: PositiveInt
    head_size: PositiveInt
    window: PositiveInt | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: Literal["none", "per_head", "whole"] = "none"
    qk_norm_bias: bool = False
    sinks: bool = False

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
        qkv = self.query_width + 2 * self.kv_width
        weights = [
            Parameter("attention.qkv", hidden_size * qkv + qkv * self.qkv_bias, split=True),
            Parameter("attention.output", self.query_width * hidden_size, split=True),
            Parameter("attention.output_bias", hidden_size * self.output_bias, split=False),
            Parameter("attention.sinks", self.heads * self.sinks, split=True),
        ]
        norm_width = {"none": 0, "per_head": 2 * self.head_size, "whole": self.query_width + self.kv_width}[
            self.qk_norm
        ]
        return [*weights, Parameter("attention.qk_norm", norm_width * (1 + self.qk_norm_bias), split=False)]


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


class FeedForward(Spec):
    """Two matmuls around an activation, or three when `gated` (SwiGLU, GeGLU)."""

    kind: Literal["dense"] = "dense"
    width: PositiveInt
    gated: bool
    bias: bool = False

    def parameters(self, hidden_size: int) -> list[Parameter]:
        up = (2 if self.gated else 1) * self.width
        return [
            Parameter("ffn.up", hidden_size * up + up * self.bias, split=True),
            Parameter("ffn.down", self.width * hidden_size, split=True),
            Parameter("ffn.down_bias", hidden_size * self.bias, split=False),
        ]


class MixtureOfExperts(Spec):
    """`experts` feed-forwards of `expert_width`, `top_k` of them for each token, and one of `shared_width` for all."""

    kind: Literal["experts"] = "experts"
    experts: PositiveInt
    top_k: PositiveInt
    expert_width: PositiveInt
    gated: bool = True
    shared_width: NonNegativeInt = 0
    shared_gate: bool = False
    shared_bias: bool = False
    bias: bool = False
    router_bias: bool = False

    @model_validator(mode="after")
    def _top_k_exists(self) -> Self:
        if self.top_k > self.experts:
            raise ValueError(f"top_k {self.top_k} is more than the {self.experts} experts")
        return self

    def parameters(self, hidden_size: int) -> list[Parameter]:
        up = (2 if self.gated else 1) * self.expert_width
        each = hidden_size * (up + self.expert_width) + (up + hidden_size) * self.bias
        shared_up = (2 if self.gated else 1) * self.shared_width
        return [
            Parameter("ffn.router", (hidden_size + self.router_bias) * self.experts, split=False),
            Parameter("ffn.experts", each * self.experts, split=True, expert=True),
            Parameter(
                "ffn.shared", hidden_size * (shared_up + self.shared_width) + shared_up * self.shared_bias, split=True
            ),
            Parameter("ffn.shared_down_bias", hidden_size * self.shared_bias, split=False),
            Parameter("ffn.shared_gate", hidden_size * self.shared_gate, split=False),
        ]


class Block(Spec):
    """One transformer layer: `norm_count` norms of the hidden width, `parallel` attention and feed-forward or in turn."""

    attention: MultiHeadAttention | LatentAttention = Field(discriminator="kind")
    ffn: FeedForward | MixtureOfExperts = Field(discriminator="kind")
    norm: Norm = Norm()
    norm_count: NonNegativeInt = 2
    parallel: bool = False

    def parameters(self, hidden_size: int) -> list[Parameter]:
        """Every weight of this layer, none with zero elements."""
        norms = [
            norm for index in range(self.norm_count) for norm in self.norm.parameters(f"norm.{index}", hidden_size)
        ]
        return [
            p
            for p in (*self.attention.parameters(hidden_size), *self.ffn.parameters(hidden_size), *norms)
            if p.elements
        ]


class BlockRun(Spec):
    """`count` neighbouring layers with the same block."""

    count: PositiveInt
    block: Block


class ModelSpec(Spec):
    """A decoder-only transformer.

    `positions`: rows of a learned position embedding, 0 where positions are rotary or ALiBi. `embedding_size`: width
    of the embedding and head where it is not `hidden_size` (OPT-350M projects between them). `embedding_norm`: BLOOM's.
    `config`: the Hugging Face configuration this was read from, which the executor builds the model of.
    """

    name: str = Field(min_length=1)
    family: str = Field(min_length=1)
    hidden_size: PositiveInt
    vocab_size: PositiveInt
    blocks: tuple[BlockRun, ...] = Field(min_length=1)
    tied_embeddings: bool = False
    positions: NonNegativeInt = 0
    embedding_size: PositiveInt | None = None
    embedding_norm: bool = False
    head_bias: bool = False
    final_norm: Norm | None = Norm()
    config: dict[str, Any] = Field(default_factory=dict, repr=False)

    @model_validator(mode="after")
    def _embedding_differs(self) -> Self:
        if self.embedding_size == self.hidden_size:
            raise ValueError(f"embedding_size {self.embedding_size} equals hidden_size; leave it out")
        return self

    def __hash__(self) -> int:
        """Over what makes the model; `config` is left out, as a dictionary has no hash."""
        return hash((self.name, self.family, self.hidden_size, self.vocab_size, self.blocks))

    @property
    def layer_count(self) -> int:
        return sum(run.count for run in self.blocks)

    @cached_property
    def layer_classes(self) -> tuple[Block, ...]:
        """The distinct blocks, in order of first appearance."""
        return tuple(dict.fromkeys(run.block for run in self.blocks))

    @cached_property
    def class_of_layer(self) -> tuple[int, ...]:
        """For each layer, the index of its block in `layer_classes`."""
        index = {block: position for position, block in enumerate(self.layer_classes)}
        return tuple(index[run.block] for run in self.blocks for _ in range(run.count))

    def embedding_parameters(self) -> list[Parameter]:
        """Weights before the first layer: token and position embeddings, their projection and norm."""
        width = self.embedding_size or self.hidden_size
        norm = (
            Norm(kind="layernorm", bias=True).parameters("embedding.norm", self.hidden_size)
            if self.embedding_norm
            else []
        )
        return [
            Parameter("embedding.tokens", self.vocab_size * width, split=True),
            Parameter("embedding.positions", self.positions * self.hidden_size, split=False),
            Parameter("embedding.projection", width * self.hidden_size if self.embedding_size else 0, split=False),
            *norm,
        ]

    def head_parameters(self) -> list[Parameter]:
        """Weights after the last layer: final norm and LM head, whether or not the head is tied to the embedding."""
        width = self.embedding_size or self.hidden_size
        norm = self.final_norm.parameters("head.norm", self.hidden_size) if self.final_norm else []
        return [
            *norm,
            Parameter("head.projection", width * self.hidden_size if self.embedding_size else 0, split=False),
            Parameter("head.output", self.vocab_size * width + self.vocab_size * self.head_bias, split=True),
        ]

    @cached_property
    def parameter_count(self) -> int:
        """Parameters of the whole model, a tied head counted once."""
        ends = sum(p.elements for p in (*self.embedding_parameters(), *self.head_parameters()))
        if self.tied_embeddings:
            ends -= self.vocab_size * (self.embedding_size or self.hidden_size)
        return ends + sum(
            run.count * sum(p.elements for p in run.block.parameters(self.hidden_size)) for run in self.blocks
        )

    @cached_property
    def active_parameter_count(self) -> int:
        """Parameters that one token passes through: of the routed experts, `top_k` of each layer."""
        unused = 0
        for run in self.blocks:
            if isinstance(run.block.ffn, MixtureOfExperts):
                routed = sum(p.elements for p in run.block.ffn.parameters(self.hidden_size) if p.expert)
                unused += run.count * (routed - routed // run.block.ffn.experts * run.block.ffn.top_k)
        return self.parameter_count - unused
