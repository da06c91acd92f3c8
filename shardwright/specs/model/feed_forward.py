"""The two shapes of a feed-forward: dense, and a mixture of experts."""

from typing import Literal, Self

from pydantic import model_validator

from shardwright.specs import NonNegativeInt, PositiveInt, Spec

from .parameter import Parameter

Activation = Literal["kernel", "relu", "gelu_new"]


class FeedForward(Spec):
    """Two matmuls around an activation, or three when `gated` (SwiGLU, GeGLU).

    `activation`: how eager PyTorch computes it: in one kernel (SiLU, GELU), as ReLU, or as `gelu_new`, which transformers
    writes out in elementwise operators.
    """

    kind: Literal["dense"] = "dense"
    width: PositiveInt
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


class MixtureOfExperts(Spec):
    """`experts` feed-forwards of `expert_width`, `top_k` of them for each token, and one of `shared_width` for all.

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

    @model_validator(mode="after")
    def _top_k_exists(self) -> Self:
        if self.top_k > self.experts:
            raise ValueError(f"top_k {self.top_k} is more than the {self.experts} experts")
        return self

    @property
    def active_width(self) -> int:
        """Columns that one token passes through: of the experts it is routed to, and the shared one's."""
        return self.top_k * self.expert_width + self.shared_width

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
