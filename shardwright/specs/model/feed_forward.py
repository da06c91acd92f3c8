"""The two shapes of a feed-forward: dense, and a mixture of experts."""

from typing import Literal, Self

from pydantic import model_validator

from shardwright.specs import NonNegativeInt, PositiveInt, Spec

from .parameter import Parameter

Activation = Literal["kernel", "relu", "gelu_new"]


class FeedForward(Spec):
    """Two matmuls around an activation, or three when `gated` (SwiGLU, GeGLU).

    `activation`: how eager PyTorch computes it: in one kernel (SiLU, GELU), as ReLU, or as `gelu_new`, which transformers
    writes out in elementwise operators. Width 0: none, in a layer that is attention alone.
    """

    kind: Literal["dense"] = "dense"
    width: NonNegativeInt
    gated: bool
    activation: Activation = "kernel"
    bias: bool = False

    @property
    def active_width(self) -> int:
        """Columns that one token passes through."""
        return self.width

    def parameters(self, hidden_size: int) -> list[Parameter]:
        up = (2 if self.gated else 1) * self.width
        return [
            Parameter("ffn.up", hidden_size * up + up * self.bias, split=True),
            Parameter("ffn.down", self.width * hidden_size, split=True),
            Parameter("ffn.down_bias", hidden_size * self.bias, split=False),
        ]


NO_FEED_FORWARD = FeedForward(width=0, gated=False)
"""In place of a feed-forward, in a layer that is attention alone (Nemotron-H)."""


class MixtureOfExperts(Spec):
    """`experts` feed-forwards of `expert_width`, `top_k` of them for each token, and one of `shared_width` for all.

    `zero_experts`: further choices of the router that return the token itself (LongCat-Flash, arXiv 2509.01322, section 2.1). They lie
    with the token: nothing is computed and nothing is sent. transformers allocates gates and ups for them that nothing reads.

    `clamped`: gate and up of the routed experts are clamped, and their activation is a sigmoid, a shift and two products
    (gpt-oss), for which eager PyTorch has no kernel.
    """

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
    clamped: bool = False
    zero_experts: NonNegativeInt = 0

    @model_validator(mode="after")
    def _top_k_exists(self) -> Self:
        if self.top_k > self.choices:
            raise ValueError(f"top_k {self.top_k} is more than the {self.choices} experts")
        return self

    @property
    def choices(self) -> int:
        """Columns of the router."""
        return self.experts + self.zero_experts

    @property
    def computed_top_k(self) -> float:
        """Experts that compute a token, on average. Assumption: each of the router's choices gets as many tokens as any other."""
        return self.top_k * self.experts / self.choices if self.zero_experts else self.top_k

    @property
    def active_width(self) -> float:
        """Columns that one token passes through on average: of the experts it is routed to, and the shared one's."""
        return self.computed_top_k * self.expert_width + self.shared_width

    def parameters(self, hidden_size: int) -> list[Parameter]:
        up = (2 if self.gated else 1) * self.expert_width
        each = hidden_size * (up + self.expert_width) + (up + hidden_size) * self.bias
        shared_up = (2 if self.gated else 1) * self.shared_width
        zeros = hidden_size * up * self.zero_experts
        idle = [Parameter("ffn.zero_experts", zeros, split=True, expert=True, idle=True)] if zeros else []
        return [
            Parameter("ffn.router", (hidden_size + self.router_bias) * self.choices, split=False),
            Parameter("ffn.experts", each * self.experts, split=True, expert=True),
            *idle,
            Parameter(
                "ffn.shared", hidden_size * (shared_up + self.shared_width) + shared_up * self.shared_bias, split=True
            ),
            Parameter("ffn.shared_down_bias", hidden_size * self.shared_bias, split=False),
            Parameter("ffn.shared_gate", hidden_size * self.shared_gate, split=False),
        ]
