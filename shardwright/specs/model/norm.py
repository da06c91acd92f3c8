"""Normalisation of a hidden state."""

from typing import Literal

from shardwright.specs import Spec

from .parameter import Parameter


class Norm(Spec):
    """One kind of normalisation; `bias` for a layer norm that has one, `weight` false for one without parameters. `written_out`:
    transformers computes a layer norm operator by operator, as it does every RMS norm (Cohere)."""

    kind: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    weight: bool = True
    bias: bool = False
    written_out: bool = False

    def parameters(self, name: str, width: int) -> list[Parameter]:
        return [Parameter(name, width * (self.weight + self.bias), split=False)]
