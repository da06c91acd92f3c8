"""The model: a run-length list of blocks between an embedding and a head, counted to the parameter."""

from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from shardwright.base import SpecError, units
from shardwright.specs import NonNegativeInt, PositiveInt, Spec

from .attention import AnyAttention, LatentAttention, MultiHeadAttention, NoAttention
from .feed_forward import FeedForward, MixtureOfExperts
from .norm import Norm
from .parameter import Parameter

if TYPE_CHECKING:
    from shardwright.specs import Trainable

__all__ = [
    "Block",
    "BlockRun",
    "FeedForward",
    "LatentAttention",
    "MixtureOfExperts",
    "ModelSpec",
    "MultiHeadAttention",
    "NoAttention",
    "Norm",
    "Parameter",
]


_ALIBI_FAMILIES = ("bloom", "mpt")
# recurrent layers tell their attention where a token is
_WITHOUT_POSITIONS = ("nemotron_h",)


class Block(Spec):
    """One transformer layer: `norm_count` norms of the hidden width, `parallel` attention and feed-forward or in turn, or one of them
    alone (`NoAttention`, `NO_FEED_FORWARD`).

    `shortcut`: a second half of the layer, with attention and norms of its own and this feed-forward. What the routed experts of the
    first half return is added behind it; their shared expert is the first half's own feed-forward (LongCat-Flash, arXiv 2509.01322,
    section 2.2; Cai et al. 2024, ScMoE, arXiv 2404.05019).

    `ladder`: each half reads the residual without the result of the half before it, which is added one half later (Zhang et al. 2025,
    arXiv 2501.06589, section 3). So exchanges over tp run beside the next half.

    `frozen`: no backward pass reaches it (`ModelSpec.trained_as`); a model that is read has no such layer.
    """

    attention: AnyAttention = Field(discriminator="kind")
    ffn: FeedForward | MixtureOfExperts = Field(discriminator="kind")
    norm: Norm = Norm()
    norm_count: NonNegativeInt = 2
    parallel: bool = False
    shortcut: FeedForward | None = None
    ladder: bool = False
    frozen: bool = Field(default=False, exclude=True, repr=False)

    @model_validator(mode="after")
    def _shortcut_is_around_experts(self) -> Self:
        if self.shortcut and not (isinstance(self.ffn, MixtureOfExperts) and self.ffn.shared_width):
            raise ValueError("shortcut is around routed experts with a dense feed-forward beside them; leave it out")
        return self

    @model_validator(mode="after")
    def _computes(self) -> Self:
        if self.sublayers == 0:
            raise ValueError("a layer has neither attention nor a feed-forward; give it one")
        return self

    @property
    def has_attention(self) -> bool:
        return not isinstance(self.attention, NoAttention)

    @property
    def has_ffn(self) -> bool:
        return isinstance(self.ffn, MixtureOfExperts) or self.ffn.width > 0

    @property
    def sublayers(self) -> int:
        """How many times the layer adds to the residual."""
        return 1 if self.parallel else self.has_attention + self.has_ffn

    @property
    def halves(self) -> "tuple[Block, ...]":
        """The block itself, or both halves of a layer with a shortcut, in the order in which they run."""
        if self.shortcut is None:
            return (self,)
        first = self.model_copy(update={"shortcut": None})
        return first, first.model_copy(update={"ffn": self.shortcut})

    def parameters(self, hidden_size: int) -> list[Parameter]:
        """Every weight of this layer, none with zero elements."""
        if self.shortcut:
            return [p for half in self.halves for p in half.parameters(hidden_size)]
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

    `positions`: how many tokens a learned position embedding reaches; 0 for rotary positions or ALiBi.
    `position_padding`: its rows beyond those (OPT has two). `embedding_size`: width of the embedding and head where it
    differs from `hidden_size` (OPT-350M projects between them). `embedding_norm`: as in BLOOM. `config`: the Hugging Face
    configuration that was read; the executor builds the model from it.
    """

    name: str = Field(min_length=1)
    family: str = Field(min_length=1)
    hidden_size: PositiveInt
    vocab_size: PositiveInt
    blocks: tuple[BlockRun, ...] = Field(min_length=1)
    tied_embeddings: bool = False
    positions: NonNegativeInt = 0
    position_padding: NonNegativeInt = 0
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

    def __repr__(self) -> str:
        layers = f"{self.layer_count} layers, hidden size {self.hidden_size:,}, vocabulary {self.vocab_size:,}"
        return f"<ModelSpec {self.name}: {units.amount(self.parameter_count)} parameters, {layers}>"

    def __hash__(self) -> int:
        """Hash of the architecture, without `config`, because a dictionary has no hash."""
        return hash((self.name, self.family, self.hidden_size, self.vocab_size, self.blocks))

    @property
    def layer_count(self) -> int:
        return sum(run.count for run in self.blocks)

    @property
    def has_router_loss(self) -> bool:
        """Whether its configuration asks for the load-balancing loss on routers."""
        return bool(self.config.get("output_router_logits"))

    @property
    def rotary(self) -> bool:
        """Whether queries and keys are rotated: positions are neither learned nor a bias (ALiBi) on the scores."""
        if self.family == "granitemoehybrid":
            return self.config.get("position_embedding_type") == "rope"
        return self.positions == 0 and self.family not in (*_ALIBI_FAMILIES, *_WITHOUT_POSITIONS)

    @property
    def alibi(self) -> bool:
        """Whether scores have a bias by distance (Press et al. 2022, arXiv 2108.12409). Falcon's configuration says so."""
        return self.family in _ALIBI_FAMILIES or (self.family == "falcon" and bool(self.config.get("alibi")))

    @cached_property
    def layer_classes(self) -> tuple[Block, ...]:
        """The distinct blocks, in order of first appearance."""
        return tuple(dict.fromkeys(run.block for run in self.blocks))

    @cached_property
    def class_of_layer(self) -> tuple[int, ...]:
        """For each layer, the index of its block in `layer_classes`."""
        index = {block: position for position, block in enumerate(self.layer_classes)}
        return tuple(index[run.block] for run in self.blocks for _ in range(run.count))

    @property
    def lacks_fused_attention(self) -> bool:
        """Whether torch's fused attention does not compute it: scores are capped, or have sinks or a bias by distance (transformers 5,
        `_supports_sdpa`)."""
        kinds = (block.attention for block in self.layer_classes)
        changed = any(isinstance(kind, MultiHeadAttention) and (kind.capped or kind.sinks) for kind in kinds)
        return changed or self.family in _ALIBI_FAMILIES

    def trained_as(self, trainable: "Trainable") -> "ModelSpec":
        """Return the model whose layers below the last `trainable.layers` are frozen, where only those are trained.

        They are classes of their own then. Adapters leave every layer in the backward pass.

        Raises:
            SpecError: the model has fewer layers, or its head is its embedding, which lies below all layers.
        """
        if trainable.kind != "layers":
            return self
        below = self.layer_count - trainable.layers
        if below < 0:
            raise SpecError(
                f"trainable '{trainable}' are more than the {self.layer_count} layers of {self.name}; give at most "
                f"layers:{self.layer_count}"
            )
        if trainable.head and self.tied_embeddings:
            raise SpecError(
                f"the head of {self.name} is its embedding, below every layer; train all, or layers:{trainable.layers} without it"
            )
        runs: list[BlockRun] = []
        for run in self.blocks:
            count = min(run.count, max(0, below))
            below -= count
            frozen = run.block.model_copy(update={"frozen": True})
            runs += [BlockRun(count=count, block=frozen)] if count else []
            runs += [BlockRun(count=run.count - count, block=run.block)] if run.count > count else []
        # a copy would keep the classes of the whole model, which are cached
        return ModelSpec(**{**{name: getattr(self, name) for name in ModelSpec.model_fields}, "blocks": tuple(runs)})

    def embedding_parameters(self) -> list[Parameter]:
        """Weights before the first layer, none with zero elements: tokens, positions, their projection and norm."""
        width = self.embedding_size or self.hidden_size
        rows = self.positions + self.position_padding
        weights = [
            Parameter("embedding.tokens", self.vocab_size * width, split=True),
            Parameter("embedding.positions", rows * self.hidden_size, split=False),
            Parameter("embedding.projection", width * self.hidden_size if self.embedding_size else 0, split=False),
        ]
        if self.embedding_norm:
            weights += Norm(kind="layernorm", bias=True).parameters("embedding.norm", self.hidden_size)
        return [p for p in weights if p.elements]

    def head_parameters(self) -> list[Parameter]:
        """Weights after the last layer, none with zero elements: final norm, projection and LM head, tied or not."""
        width = self.embedding_size or self.hidden_size
        weights = [
            Parameter("head.projection", width * self.hidden_size if self.embedding_size else 0, split=False),
            Parameter("head.output", self.vocab_size * width + self.vocab_size * self.head_bias, split=True),
        ]
        if self.final_norm:
            weights = [*self.final_norm.parameters("head.norm", self.hidden_size), *weights]
        return [p for p in weights if p.elements]

    @cached_property
    def parameter_count(self) -> int:
        """Parameters of the whole model, a tied head counted once, without idle ones."""
        ends = sum(p.elements for p in (*self.embedding_parameters(), *self.head_parameters()))
        if self.tied_embeddings:
            ends -= self.vocab_size * (self.embedding_size or self.hidden_size)
        return ends + self._in_layers(idle=False)

    @cached_property
    def idle_parameter_count(self) -> int:
        """Parameters that transformers allocates beside `parameter_count` and nothing reads."""
        return self._in_layers(idle=True)

    def _in_layers(self, *, idle: bool) -> int:
        return sum(
            run.count * sum(p.elements for p in run.block.parameters(self.hidden_size) if p.idle is idle)
            for run in self.blocks
        )

    @cached_property
    def active_parameter_count(self) -> int:
        """Parameters that one token passes through: of the routed experts, those of each layer that compute it on average."""
        unused = 0
        for run in self.blocks:
            ffn = run.block.ffn
            if isinstance(ffn, MixtureOfExperts):
                routed = sum(p.elements for p in ffn.parameters(self.hidden_size) if p.expert and not p.idle)
                unused += run.count * (routed - round(routed // ffn.experts * ffn.computed_top_k))
        return self.parameter_count - unused
