"""What is trained: every weight, low-rank adapters beside frozen weights, or the last layers."""

import re
from typing import Literal, Self

from pydantic import model_validator

from shardwright.base import nearest

from .spec import NonNegativeInt, Spec

TrainableKind = Literal["all", "lora", "layers"]
BaseFormat = Literal["compute", "int8", "nf4", "gptq"]

ATTENTION_MODULES = ("q_proj", "k_proj", "v_proj", "q_a_proj", "q_b_proj", "kv_a_proj", "kv_b_proj", "o_proj")
"""Linears of attention by the names of transformers; those with `_a_` and `_b_` are of latent attention (DeepSeek-V3)."""
FEED_FORWARD_MODULES = ("gate_proj", "up_proj", "down_proj")
"""Linears of a feed-forward, dense or of each expert."""
MODULE_GROUPS = {
    "attention": ATTENTION_MODULES,
    "mlp": FEED_FORWARD_MODULES,
    "all-linear": (*ATTENTION_MODULES, *FEED_FORWARD_MODULES),
}
"""Names for several linears; PEFT knows `all-linear`. Embedding, router and head are in none."""

_MODULES = MODULE_GROUPS["all-linear"]
_DEFAULT_RANK, _DEFAULT_TARGETS = 16, ("all-linear",)
_KINDS = ("all", "lora", "qlora", "layers")
_BASES: dict[str, BaseFormat] = {"16bit": "compute", "int8": "int8", "nf4": "nf4", "gptq": "gptq"}
_EXAMPLE = "all, lora:r=16,targets=attention, qlora:r=16,targets=all-linear or layers:4+head"
MOST_RANK = 1 << 14

STORED_BYTES: dict[BaseFormat, float] = {
    "int8": 1.0,
    "nf4": 0.5 + 1 / 64 + 4 / (64 * 256),
    "gptq": 0.5 + 2 / 128 + 0.5 / 128,
}
"""Bytes of one frozen weight beside the compute format.

int8: one byte (bitsandbytes, nn/modules.py, Int8Params); the fp32 scale of each row is left out. nf4: half a byte, an 8-bit
scale for 64 weights, and an fp32 scale for 256 of these (Dettmers et al. 2023, arXiv 2305.14314, section 3, double
quantisation; bitsandbytes, functional.py, quantize_4bit). gptq: half a byte, and for 128 weights a scale in 16 bits and a
zero in 4 (AutoGPTQ, nn_modules/qlinear, with the group size 128 of most checkpoints)."""


class Trainable(Spec):
    """The part of the model that a run trains; everything else is frozen.

    "all": every weight. "lora": beside each target linear a matrix to `rank` and one back (Hu et al. 2021,
    arXiv 2106.09685, section 4.1). "layers": the last `layers` layers, and with `head` also final norm and head.
    `targets`: names of linears or of `MODULE_GROUPS`. `base`: the format in which the linears of the layers lie frozen
    beside adapters; embedding, norms, router and head stay in the compute format, as bitsandbytes leaves them.
    `dropout`: the input of each adapter has its own dropout.

    A text such as `str()` gives is read as well: `lora:r=16,targets=attention`.
    """

    kind: TrainableKind = "all"
    rank: NonNegativeInt = 0
    targets: tuple[str, ...] = ()
    base: BaseFormat = "compute"
    dropout: bool = False
    layers: NonNegativeInt = 0
    head: bool = False

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: object) -> object:
        return _fields_of_text(given) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if self.kind == "lora":
            if not 0 < self.rank <= MOST_RANK:
                raise ValueError(f"rank {self.rank} of adapters is not from 1 to {MOST_RANK}; give r=16")
            if not self.targets:
                raise ValueError(f"adapters have no targets; allowed: {', '.join((*MODULE_GROUPS, *_MODULES))}")
            for target in self.targets:
                _check_target(target)
        elif self.rank or self.targets or self.base != "compute" or self.dropout:
            raise ValueError(f"rank, targets, base and dropout are of adapters, not of trainable '{self.kind}'")
        if self.kind == "layers" and not self.layers and not self.head:
            raise ValueError("layers:0 trains nothing; give layers:1 or more, or layers:0+head")
        if self.kind != "layers" and (self.layers or self.head):
            raise ValueError(f"layers and head are of trainable 'layers', not of '{self.kind}'")
        return self

    @property
    def trains_all(self) -> bool:
        return self.kind == "all"

    @property
    def has_adapters(self) -> bool:
        return self.kind == "lora"

    @property
    def trains_layer_weights(self) -> bool:
        """Whether a layer that trains at all trains its own weights."""
        return self.kind != "lora"

    @property
    def trains_embedding(self) -> bool:
        return self.kind == "all"

    @property
    def trains_head(self) -> bool:
        return self.kind == "all" or self.head

    @property
    def modules(self) -> frozenset[str]:
        """The linears that have adapters, groups resolved."""
        return frozenset(name for target in self.targets for name in MODULE_GROUPS.get(target, (target,)))

    def adapts(self, *names: str) -> bool:
        """Whether one of the linears called `names` has an adapter."""
        return not self.modules.isdisjoint(names)

    def keeps_input(self, *names: str) -> bool:
        """Whether the gradient of a weight reads what the linears called `names` read: that of the linears' own weights, or of
        an adapter without a dropout of its own before it."""
        return self.trains_layer_weights or (not self.dropout and self.adapts(*names))

    def __str__(self) -> str:
        if self.kind == "all":
            return "all"
        if self.kind == "layers":
            return f"layers:{self.layers}{'+head' * self.head}"
        base = "" if self.base in ("compute", "nf4") else f",base={self.base}"
        name = "qlora" if self.base == "nf4" else "lora"
        dropout = ",dropout=yes" if self.dropout else ""
        return f"{name}:r={self.rank},targets={'+'.join(self.targets)}{base}{dropout}"


def _check_target(target: str) -> None:
    allowed = (*MODULE_GROUPS, *_MODULES)
    if target not in allowed:
        raise ValueError(f"target '{target}' is not known; allowed: {', '.join(allowed)}.{nearest(target, allowed)}")


def _fields_of_text(text: str) -> dict[str, object]:
    """Read `all`, `lora:r=16,targets=attention`, `qlora:...` or `layers:4+head` into the fields.

    Raises:
        ValueError: the text is none of these; says what was given, what is allowed and the nearest.
    """
    name, _, rest = text.strip().partition(":")
    if name not in _KINDS:
        raise ValueError(f"trainable '{text}' is not known; allowed: {_EXAMPLE}.{nearest(name, _KINDS)}")
    if name == "all":
        if rest:
            raise ValueError(f"trainable 'all' has no options, not '{rest}'; allowed: {_EXAMPLE}")
        return {}
    return _layers(text, rest) if name == "layers" else _adapters(name, rest)


def _layers(text: str, rest: str) -> dict[str, object]:
    found = re.fullmatch(r"(\d+)(\+head)?", rest.strip())
    if found is None:
        raise ValueError(f"trainable '{text}' names no number of layers; give layers:4, or layers:4+head")
    return {"kind": "layers", "layers": int(found[1]), "head": found[2] is not None}


def _adapters(name: str, rest: str) -> dict[str, object]:
    fields: dict[str, object] = {"kind": "lora", "rank": _DEFAULT_RANK, "targets": _DEFAULT_TARGETS}
    if name == "qlora":
        fields["base"] = "nf4"
    known = ("r", "targets", "base", "dropout")
    for part in filter(None, (piece.strip() for piece in rest.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if key not in known or not equals:
            raise ValueError(f"'{part}' of adapters is not known; allowed: {', '.join(known)}.{nearest(key, known)}")
        fields |= _option(key, value)
    return fields


def _option(key: str, value: str) -> dict[str, object]:
    if key == "r":
        if not value.isdecimal():
            raise ValueError(f"rank '{value}' is no whole number; give r=16")
        return {"rank": int(value)}
    if key == "targets":
        return {"targets": tuple(dict.fromkeys(name.strip() for name in value.split("+") if name.strip()))}
    allowed = tuple(_BASES) if key == "base" else ("yes", "no")
    if value not in allowed:
        raise ValueError(f"{key} '{value}' is not known; allowed: {', '.join(allowed)}.{nearest(value, allowed)}")
    return {"base": _BASES[value]} if key == "base" else {"dropout": value == "yes"}
