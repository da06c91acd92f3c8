"""Linear attention: a recurrence over a state of (key_size, value_size) numbers a head, in place of scores over all keys."""

from typing import Literal, Self

from pydantic import model_validator

from shardwright.specs import PositiveInt, Spec

from .parameter import Parameter


class LinearAttention(Spec):
    """What the recurrences have in common. Each token does S -> M S + N to the state S of a head, which queries then read.

    `key_heads` heads of queries and keys serve `heads` heads of values. A causal convolution over `kernel` tokens may run over
    all three. `chunk` tokens are computed at once.
    """

    heads: PositiveInt
    key_heads: PositiveInt
    key_size: PositiveInt
    value_size: PositiveInt
    kernel: PositiveInt = 4
    chunk: PositiveInt = 64

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        if self.heads % self.key_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of key_heads {self.key_heads}")
        return self

    @property
    def kv_heads(self) -> int:
        return self.key_heads

    @property
    def head_size(self) -> int:
        return self.key_size

    @property
    def value_head_size(self) -> int:
        return self.value_size

    @property
    def window(self) -> None:
        return None

    @property
    def key_width(self) -> int:
        return self.key_heads * self.key_size

    @property
    def value_width(self) -> int:
        return self.heads * self.value_size

    @property
    def state_size(self) -> int:
        """Numbers of the state of all heads of a sequence."""
        return self.heads * self.key_size * self.value_size

    @property
    def transition_size(self) -> int:
        """Numbers that say M of one head, for any run of tokens: here its diagonal is one number, a decay."""
        return 1

    @property
    def convolved_width(self) -> int:
        """Channels of queries, keys and values together."""
        return 2 * self.key_width + self.value_width

    @property
    def input_width(self) -> int:
        """Columns of the projections of the input: queries, keys, values and a gate of each output."""
        return 2 * self.key_width + 2 * self.value_width


class GatedDelta(LinearAttention):
    """The gated delta rule (Yang et al. 2024, arXiv 2412.06464), as in Qwen3-Next. M is a matrix, as a key overwrites what it reads."""

    kind: Literal["linear"] = "linear"

    @property
    def transition_size(self) -> int:
        return self.key_size**2

    @property
    def input_width(self) -> int:
        """Beside those of any kind two numbers a head, for the decay and for how much is overwritten."""
        return super().input_width + 2 * self.heads

    def parameters(self, hidden_size: int) -> list[Parameter]:
        return [
            Parameter("attention.input", hidden_size * self.input_width, split=True),
            Parameter("attention.convolution", self.convolved_width * self.kernel, split=True),
            Parameter("attention.decay", 2 * self.heads, split=True),
            Parameter("attention.norm", self.value_size, split=False),
            Parameter("attention.output", self.value_width * hidden_size, split=True),
        ]


class Mamba2(LinearAttention):
    """The state space model of Mamba-2 (Dao and Gu 2024, arXiv 2405.21060, section 7). By its duality with attention its C, B and X are
    queries, keys and values: `heads` heads of `value_size`, in `key_heads` groups that share B and C of `key_size`, the size of the state.

    The norm of the gated outputs runs over each group. `bias` is on the projections in and out.
    """

    kind: Literal["mamba2"] = "mamba2"
    convolution_bias: bool = True
    bias: bool = False

    @property
    def input_width(self) -> int:
        """X, B, C, a gate of each output, and a step size a head."""
        return super().input_width + self.heads

    def parameters(self, hidden_size: int) -> list[Parameter]:
        taps = self.kernel + self.convolution_bias
        return [
            Parameter("attention.input", (hidden_size + self.bias) * self.input_width, split=True),
            Parameter("attention.convolution", self.convolved_width * taps, split=True),
            Parameter("attention.decay", 3 * self.heads, split=True),  # A, D and the bias of the step size
            Parameter("attention.norm", self.value_width, split=True),
            Parameter("attention.output", self.value_width * hidden_size, split=True),
            Parameter("attention.output_bias", hidden_size * self.bias, split=False),
        ]


class Lightning(LinearAttention):
    """Lightning attention (Qin et al. 2024, arXiv 2401.04658), as in MiniMax-01 (arXiv 2501.08313, section 2.2): every head decays by a
    constant. An activation runs over queries, keys and values, a norm over all outputs, and a gate of each output behind it."""

    kind: Literal["lightning"] = "lightning"
    kernel: PositiveInt = 1
    chunk: PositiveInt = 256

    @property
    def transition_size(self) -> int:
        return 0

    @property
    def convolved_width(self) -> int:
        return 0

    def parameters(self, hidden_size: int) -> list[Parameter]:
        return [
            Parameter("attention.input", hidden_size * self.input_width, split=True),
            Parameter("attention.norm", self.value_width, split=True),
            Parameter("attention.output", self.value_width * hidden_size, split=True),
        ]
